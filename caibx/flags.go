package caibx

import (
	"fmt"
	"math/bits"
)

// FlagSHA512_256 is the feature flag that says that chunk IDs are SHA-512/256;
// without it they are SHA-256.
const FlagSHA512_256 = 1 << 61

// knownFlags are the feature flags that casync defines (docs/format/chunks.md,
// section 3.1): 33 of what an archive records, and 4 of how it was made.
const knownFlags = 1<<33 - 1 | 0xf<<60

// flagRules are casync's normal form of feature flags: where any bit of if is
// set, all of needs and none of bars may be.
var flagRules = [...]struct {
	name            string
	any, needs, bar uint64
}{
	{"32bit-uids", 0x2, 0, 0x1},
	{"nsec-time", 0x20, 0, 0x58},
	{"usec-time", 0x10, 0, 0x48},
	{"sec-time", 0x8, 0, 0x40},
	{"acl", 0x2000_0000, 0, 0x180},
	{"permissions", 0x100, 0, 0x80},
	{"subvolume-ro", 0x800_0000, 0x400_0000, 0},
	{"exclude-nodump", 1 << 63, 0, 0x10_0000},
}

// flagACL demands one of flagIDs.
const (
	flagACL = 0x2000_0000
	flagIDs = 0x7 // 16bit-uids, 32bit-uids, user-names
)

// checkFlags refuses feature flags that casync refuses in an index: unknown
// ones, and sets that are not in normal form.
func checkFlags(f uint64) error {
	if unknown := f &^ knownFlags; unknown != 0 {
		return fmt.Errorf("unknown feature flag bit %d", bits.TrailingZeros64(unknown))
	}
	if f&flagACL != 0 && f&flagIDs == 0 {
		return fmt.Errorf("feature flags %#x are not normalised: acl without owners", f)
	}
	for _, r := range flagRules {
		if f&r.any != 0 && (f&r.needs != r.needs || f&r.bar != 0) {
			return fmt.Errorf("feature flags %#x are not normalised: %s with %#x", f, r.name, f&r.bar)
		}
	}
	return nil
}
