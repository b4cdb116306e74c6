"""Whether an attack's result can be believed: eight checks of a defence, its gradient and its attack."""
