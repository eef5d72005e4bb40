//! Clear-text meaning of the artefacts: the oracle of every later stage.
