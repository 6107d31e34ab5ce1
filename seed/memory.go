package seed

import (
	"os"
	"time"
)

// Memory remembers the digests of files across runs, so that a file that has
// not changed is not read again to know what it holds. It is safe for
// concurrent use.
//
// What it says is believed for a plan only: whoever copies the file hashes it
// anyway.
type Memory interface {
	// Scan begins a walk through the tree at dir.
	Scan(dir string) Scan
}

// Scan is one walk through a seed. It is safe for concurrent use.
type Scan interface {
	// Recall returns the digest of the regular file at path if it is known
	// and the file looks as it did when it was hashed. fi is of os.Lstat. A
	// walk asks for every regular file that it meets, whether it needs the
	// digest or not.
	Recall(path string, fi os.FileInfo) (Digest, bool)

	// Learn takes in the digest of the file at path. before and after are
	// what the open file's Stat said before its first byte was read and after
	// its last, started is when the former was. A file that changed meanwhile,
	// or so recently that a later change might not show, is not remembered.
	Learn(path string, before, after os.FileInfo, started time.Time, d Digest)

	// RecallList and LearnList are Recall and Learn for the list of what is
	// inside the archive at path: bytes that are given back as they were. They
	// and a digest of the same file do not know of each other.
	RecallList(path string, fi os.FileInfo) ([]byte, bool)
	LearnList(path string, before, after os.FileInfo, started time.Time, list []byte)

	// Done says that every file of the tree has been asked for: what is known
	// from earlier walks through it and was not met is gone.
	Done()
}

// noMemory is a Memory that remembers nothing.
type noMemory struct{}

func (noMemory) Scan(string) Scan                                          { return noMemory{} }
func (noMemory) Recall(string, os.FileInfo) (Digest, bool)                 { return Digest{}, false }
func (noMemory) Learn(string, os.FileInfo, os.FileInfo, time.Time, Digest) {}
func (noMemory) RecallList(string, os.FileInfo) ([]byte, bool)             { return nil, false }
func (noMemory) LearnList(string, os.FileInfo, os.FileInfo, time.Time, []byte) {
}
func (noMemory) Done() {}
