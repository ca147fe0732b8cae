"""The two mechanisms, masking and reparameterising, and what both are driven by; imports torch only."""
