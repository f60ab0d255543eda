"""Floor 2: the artifact on disk: manifest, writer, reader, verifier, model card. Never torch."""
