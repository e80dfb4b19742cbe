// Package lint holds the rules of the code base as tests: formatting, vet,
// staticcheck, which package may import which, and what a package must have. It
// has no code of its own.
package lint
