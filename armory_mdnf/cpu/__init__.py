"""What only a CPU gains from: the same sums in another order, behind one switch."""
