"""Energy: what each job and service took of what the GPUs' counters say, and what nobody did."""
