"""Authors' checkpoints: read, recognise and rebuild them as heads of this package."""
