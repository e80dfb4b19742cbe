package reintegrate

// RedoName is redoName, for tests.
const RedoName = redoName
