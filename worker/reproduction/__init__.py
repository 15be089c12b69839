"""`permafrost reproduce`: trains a result again from its recipe, without the service, and compares the bits."""
