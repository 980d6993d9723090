"""What `hardware=…` means to Transformers and Accelerate: a module a strategy.

Each has `TYPES`, what Accelerate calls it; `arguments(recipe)` -> keyword arguments of TrainingArguments, and `adjust(args, recipe)` what
they cannot say; `environment(hardware)` -> variables that must be set before a model is loaded, `loading(hardware)` -> what
`from_pretrained` is told; and `whole(model)` -> the trained parameters by name, gathered, or None where every process has them.
"""
