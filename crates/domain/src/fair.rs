//! Whose turn it is: quotas and fair shares of a dispatcher run.
