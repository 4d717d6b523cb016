"""How well the spike rule tells a healthy step from a bad one: small runs, and the rule's judgement of them."""
