package catar

import (
	"errors"
	"strings"
	"testing"
)

// TestParseNames holds what casync writes for its options, seen in the first
// bytes of its archives.
func TestParseNames(t *testing.T) {
	for _, x := range []struct {
		with, without string
		want          Flags
	}{
		{"", "", 0xb0000001ffeffe26},
		{"best", "", 0xb0000001ffeffe26},
		{"all", "", 0xb0000001ffeffe26},
		{"unix", "", 0xb000000000001f09},
		{"fat", "", 0xb00000000000e0c0},
		{"chattr", "", 0xb000000003ef0000},
		{"fat-attrs", "", 0xb00000000000e000},
		{"privileged", "", 0xb0000001ec414406},
		{"fuse", "", 0xb000000013efff22},
		{"acl", "", 0xb000000020000006},
		{"acl,user-names", "", 0xb000000020000004},
		{"", "all", 0xb000000000000000},
		{"", "privileged", 0xb000000013aebb20},
		{"", "acl", 0xb0000001dfefff26},
		{"", "xattrs", 0xb0000001efeffe26},
		{"", "best", 0xb000000000000111},
		{"", "fuse", 0xb0000001ec000004},
		{"", "best,fuse", 0xb000000000000000},
		{"", "fuse,user-names", 0xb0000001ec000006},
		{"subvolume-ro", "", 0xb00000000c000000},
	} {
		got, err := ParseNames(split(x.with), split(x.without))
		if err != nil {
			t.Fatal(err)
		}
		got = (got | ExcludeFile | ExcludeNoDump | SHA512_256).Normalize()
		if got != x.want {
			t.Errorf("with %q without %q: %#x, want %#x", x.with, x.without, uint64(got), uint64(x.want))
		}
		if err := got.Validate(); err != nil {
			t.Error(err)
		}
		if back, err := ParseNames(strings.Split(got.String(), ","), nil); err == nil && back|excludeBits|SHA512_256 != got|excludeBits {
			t.Errorf("%s: %#x", got, uint64(back))
		}
	}
	if _, err := ParseNames([]string{"nonsense"}, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("nonsense: %v", err)
	}
	if _, err := ParseNames(nil, []string{""}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("empty: %v", err)
	}
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func TestValidate(t *testing.T) {
	for _, f := range []Flags{
		1 << 33, 1 << 59, With16BitUIDs | With32BitUIDs, WithSecTime | WithNsecTime, WithACL, WithACL | With32BitUIDs | WithPermissions,
		WithPermissions | WithReadOnly, ExcludeNoDump | WithFlagNoDump, WithSubvolumeRO,
	} {
		if err := f.Validate(); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", f, err)
		}
	}
}
