"""From text, sound, pictures and video files to tensors, and back. The modules load at first use."""
