"""The main job on handwritten digits."""
