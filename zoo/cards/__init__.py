"""What is known of each model: where its files lie, what they hash to, how its input is made."""
