package chunk

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/ociv2-sync/ociv2-sync/internal/multihash"
)

// IDSize is the length of an [ID] in bytes.
const IDSize = 32

// ID names a chunk: the digest of its uncompressed bytes. It is comparable and
// can be a map key.
type ID [IDSize]byte

// ParseID reads the 64 lower-case hexadecimal digits that [ID.String] writes.
// Other spellings are refused: an ID is also a file name in a chunk store, and
// a file name has one form.
func ParseID(s string) (ID, error) {
	var id ID
	err := id.UnmarshalText([]byte(s))
	return id, err
}

// String returns the ID as 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements [encoding.TextMarshaler] with the form of [ID.String].
func (id ID) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, id[:]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]; it accepts what
// [ParseID] accepts and leaves the ID alone on error.
func (id *ID) UnmarshalText(text []byte) error {
	var v ID
	if len(text) != 2*IDSize {
		return fmt.Errorf("chunk: id: %d characters, want %d", len(text), 2*IDSize)
	}
	for i, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("chunk: id: character %q at %d is not a lower-case hexadecimal digit", c, i)
		}
	}
	if _, err := hex.Decode(v[:], text); err != nil {
		return fmt.Errorf("chunk: id: %w", err)
	}
	*id = v
	return nil
}

// Algorithm is a digest algorithm of casync. An index names its own by a
// feature flag.
type Algorithm uint8

// The algorithms that casync has. The zero value is casync's default.
const (
	SHA512_256 Algorithm = iota // SHA-512/256 (FIPS 180-4)
	SHA256                      // SHA-256
)

// Sum returns the ID of the chunk whose uncompressed bytes are b.
func (a Algorithm) Sum(b []byte) ID {
	if a == SHA256 {
		return sha256.Sum256(b)
	}
	return sha512.Sum512_256(b)
}

// SumAll sets each ids[i] to the ID of the chunk whose uncompressed bytes are
// chunks[i]; there must be as many of one as of the other. With SHA-512/256 and
// four chunks or more it is several times as fast as Sum where the processor
// allows it.
func (a Algorithm) SumAll(ids []ID, chunks [][]byte) {
	if a == SHA512_256 {
		multihash.Sum512_256(ids, chunks)
		return
	}
	for i, b := range chunks {
		ids[i] = a.Sum(b)
	}
}

// New returns a running digest; its sum has [IDSize] bytes. It serves the
// digest of a whole stream, which casync computes with the same algorithm.
func (a Algorithm) New() hash.Hash {
	if a == SHA256 {
		return sha256.New()
	}
	return sha512.New512_256()
}

// String returns casync's name of the algorithm, as its option --digest takes
// it.
func (a Algorithm) String() string {
	if a == SHA256 {
		return "sha256"
	}
	return "sha512-256"
}
