"""Random networks over the ops of CNNs and hybrids: every recipe gives one."""
