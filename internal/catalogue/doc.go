// Package catalogue remembers the SHA-256 of seed files across runs: one file
// of sorted records of fixed size, read whole, replaced whole. The format and
// its rules are in docs/format/catalogue.md.
//
// A database was measured against it. To fill and to ask for 200,000 files takes
// bbolt 1.7 s in transactions of 10,000 (31 s in one) and 53 MB on the disk, and
// a process that writes keeps all others out; this file takes 0.7 s and 16 MB,
// and readers never wait. A walk through a seed asks for nearly all files there
// are, so that reading all of it is no loss.
package catalogue
