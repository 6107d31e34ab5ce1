// Package archtest holds no code: its test checks which package imports which, so
// that the arrows of ARCHITECTURE.md are the arrows of the program.
package archtest
