package chunk

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// MaxSize is the largest size in bytes that casync allows for a chunk.
const MaxSize = 128 << 20

// ErrParams reports chunk sizes outside what casync allows.
var ErrParams = errors.New("invalid chunk sizes")

// Params are the chunk sizes of an index, in bytes. Equal sizes mean chunks of
// one fixed size (docs/format/chunks.md, section 1).
type Params struct {
	Min uint64 // no chunk but the last of a stream is shorter; at least 48 in effect, unless the size is fixed
	Avg uint64 // what the cut condition aims at
	Max uint64 // no chunk is longer
}

// DefaultParams returns casync's default, 16:64:256 KiB.
func DefaultParams() Params { return around(64 << 10) }

// around returns the sizes that casync derives from an average.
func around(avg uint64) Params {
	return Params{Min: avg / 4, Avg: avg, Max: min(avg*4, MaxSize)}
}

// Validate reports, as an error that wraps [ErrParams], sizes that an index
// must not have: it demands 1 <= Min <= Avg <= Max <= [MaxSize].
func (p Params) Validate() error {
	if p.Min < 1 || p.Min > p.Avg || p.Avg > p.Max || p.Max > MaxSize {
		return fmt.Errorf("chunk: %w %s: want 1 <= min <= avg <= max <= %d", ErrParams, p, MaxSize)
	}
	return nil
}

// cuttable is Validate with what only cutting needs.
func (p Params) cuttable() error {
	if err := p.Validate(); err != nil {
		return err
	}
	if p.Max < window && !p.fixed() {
		return fmt.Errorf("chunk: %w %s: the maximum is below the hash window of %d bytes", ErrParams, p, window)
	}
	return nil
}

// fixed reports whether chunks all have one size.
func (p Params) fixed() bool { return p.Min == p.Avg && p.Avg == p.Max }

// String returns the sizes as min:avg:max in bytes, which [ParseParams] reads.
func (p Params) String() string { return fmt.Sprintf("%d:%d:%d", p.Min, p.Avg, p.Max) }

// ParseParams reads the argument of casync's option --chunk-size: an average
// size, or MIN:AVG:MAX, or "auto" for the default. A size is a decimal number,
// with a fraction if need be, and one of the suffixes B, K, M, G, T, P, E (powers of 1024)
// if need be. From an average alone follow a minimum of a quarter and a maximum
// of four times it, the latter at most [MaxSize]. Errors wrap [ErrParams].
func ParseParams(s string) (Params, error) {
	if s == "auto" {
		return DefaultParams(), nil
	}
	parts := strings.Split(s, ":")
	if len(parts) != 1 && len(parts) != 3 {
		return Params{}, fmt.Errorf("chunk: %w %q: want AVG or MIN:AVG:MAX", ErrParams, s)
	}
	var sizes [3]uint64
	for i, part := range parts {
		v, ok := parseSize(part)
		if !ok {
			return Params{}, fmt.Errorf("chunk: %w %q: %q is not a size", ErrParams, s, part)
		}
		sizes[i] = v
	}
	p := Params{Min: sizes[0], Avg: sizes[1], Max: sizes[2]}
	if len(parts) == 1 {
		if sizes[0] > MaxSize {
			return Params{}, fmt.Errorf("chunk: %w %q: the average is above %d", ErrParams, s, MaxSize)
		}
		p = around(sizes[0])
	}
	return p, p.cuttable()
}

// parseSize reads digits[.digits][BKMGTPE]. casync also takes blanks, signs
// and sums such as 1M1K here, by accident of its parser; those are refused.
func parseSize(s string) (uint64, bool) {
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("BKMGTPE", s[n-1]); i >= 0 {
			shift, s = 10*i, s[:n-1]
		}
	}
	whole, frac, dotted := strings.Cut(s, ".")
	if !digits(whole) || dotted && !digits(frac) || len(frac) > 9 {
		return 0, false
	}
	v, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || bits.Len64(v)+shift > 64 {
		return 0, false
	}
	v <<= shift
	if dotted {
		// At most 9 digits: f < 10^9 and 1 << shift <= 2^60 multiply in 128 bits.
		f, _ := strconv.ParseUint(frac, 10, 64)
		scale := uint64(1)
		for range frac {
			scale *= 10
		}
		hi, lo := bits.Mul64(f, 1<<shift)
		q, _ := bits.Div64(hi, lo, scale)
		if v+q < v {
			return 0, false
		}
		v += q
	}
	return v, true
}

// digits reports whether s is one or more decimal digits.
func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
