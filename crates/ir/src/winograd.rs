//! Winograd transforms in integer arithmetic.
