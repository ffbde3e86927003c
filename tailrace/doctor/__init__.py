"""What `tailrace doctor` looks at: this machine, or a Flink cluster elsewhere."""
