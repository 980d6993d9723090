"""The Hugging Face Hub: model card, publishing, and which commits revisions stand for: `tuner.hub.push.publish(plan, recipe, …)`."""
