"""Parts that methods are built from: encoders, tokenizer, projection heads."""
