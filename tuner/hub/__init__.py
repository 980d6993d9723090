"""The Hugging Face Hub: the model card, publishing a run, and which commits revisions stand for: `tuner.hub.push.publish(plan, recipe, progress=print)`."""
