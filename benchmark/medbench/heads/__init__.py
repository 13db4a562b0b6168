"""What a protocol trains on top of an encoder."""
