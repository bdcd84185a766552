"""Task models of text and one second modality: retrieval, question answering, captioning, classification."""
