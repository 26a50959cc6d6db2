"""Stage B: cached vectors in, a LoRA language model that completes bundles out.

``loop.train`` runs a recipe, ``checkpoint`` saves and loads, ``scoring`` answers frozen questions.
"""
