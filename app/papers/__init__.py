"""A job's papers: bills of materials (CycloneDX, SPDX) of what its result was made of."""
