"""The code of the transforms: each module has `STEPS`, name -> step. What they take is declared in schema/transforms/."""
