package catar

import (
	"fmt"
	"strings"
)

// Flags is the set of features that an archive records: docs/format/catar.md
// section 2. Every ENTRY record of an archive and its chunk index carry the
// same value.
type Flags uint64

// The features. Bits of the WithFlagXxx and WithSubvolume kinds also occur in
// Entry.FileFlags, where they are attributes of one file.
const (
	With16BitUIDs Flags = 1 << iota
	With32BitUIDs
	WithUserNames
	WithSecTime
	WithUsecTime
	WithNsecTime
	With2SecTime
	WithReadOnly
	WithPermissions
	WithSymlinks
	WithDeviceNodes
	WithFIFOs
	WithSockets
	WithFlagHidden
	WithFlagSystem
	WithFlagArchive
	WithFlagAppend
	WithFlagNoAtime
	WithFlagCompr
	WithFlagNoCow
	WithFlagNoDump
	WithFlagDirSync
	WithFlagImmutable
	WithFlagSync
	WithFlagNoComp
	WithFlagProjInherit
	WithSubvolume
	WithSubvolumeRO
	WithXAttrs
	WithACL
	WithSELinux
	WithFCaps
	WithQuotaProjID
)

// The flags that say how an archive was made rather than what it records.
const (
	ExcludeFile      Flags = 1 << 60 // .caexclude files were honoured
	SHA512_256       Flags = 1 << 61 // digests are SHA-512/256; without it SHA-256
	ExcludeSubmounts Flags = 1 << 62 // other mounts were left out
	ExcludeNoDump    Flags = 1 << 63 // files with the nodump attribute were left out
)

// The sets that casync's --with and --without name.
const (
	withIDs   = With16BitUIDs | With32BitUIDs
	withTimes = WithSecTime | WithUsecTime | WithNsecTime | With2SecTime

	// FATAttrs are the attributes of files on FAT.
	FATAttrs = WithFlagHidden | WithFlagSystem | WithFlagArchive
	// ChAttrs are the attributes that chattr(1) changes.
	ChAttrs = WithFlagAppend | WithFlagNoAtime | WithFlagCompr | WithFlagNoCow | WithFlagNoDump |
		WithFlagDirSync | WithFlagImmutable | WithFlagSync | WithFlagNoComp | WithFlagProjInherit
	// fileFlags are the bits that Entry.FileFlags may have.
	fileFlags = FATAttrs | ChAttrs | WithSubvolume | WithSubvolumeRO

	setBest = With32BitUIDs | WithUserNames | WithNsecTime | WithSymlinks | WithDeviceNodes | WithFIFOs |
		WithSockets | FATAttrs | ChAttrs | WithSubvolume | WithSubvolumeRO | WithXAttrs | WithACL |
		WithSELinux | WithFCaps | WithQuotaProjID
	setUnix = With16BitUIDs | WithPermissions | WithSecTime | WithSymlinks | WithDeviceNodes | WithFIFOs | WithSockets
	setFAT  = With2SecTime | WithReadOnly | FATAttrs
	// setPrivileged is what only root can restore.
	setPrivileged = withIDs | WithUserNames | WithDeviceNodes | WithFlagSystem | WithFlagAppend | WithFlagImmutable |
		WithSubvolume | WithSubvolumeRO | WithACL | WithSELinux | WithFCaps | WithQuotaProjID
	// setFUSE is what a mounted archive can show, the coarser forms included: that
	// shows where the set is taken off.
	setFUSE = withIDs | withTimes | WithReadOnly | WithPermissions | WithSymlinks | WithDeviceNodes | WithFIFOs |
		WithSockets | FATAttrs | ChAttrs | WithXAttrs

	withAll     = 1<<33 - 1
	excludeBits = ExcludeFile | ExcludeSubmounts | ExcludeNoDump
	known       = withAll | excludeBits | SHA512_256
)

// Has reports whether f has any of the features x.
func (f Flags) Has(x Flags) bool { return f&x != 0 }

// Normalize returns the one value that stands for the feature set f: of
// features that contain each other only the finest stays. Unknown bits stay, so
// that Validate can refuse them.
func (f Flags) Normalize() Flags {
	if f&WithACL != 0 && f&(withIDs|WithUserNames) == 0 {
		// ACL entries name users, so there must be something to name them by.
		f |= With32BitUIDs | WithUserNames
	}
	if f&With32BitUIDs != 0 {
		f &^= With16BitUIDs
	}
	for _, t := range []Flags{WithNsecTime, WithUsecTime, WithSecTime} {
		if f&t != 0 {
			f = f&^withTimes | t
			break
		}
	}
	if f&WithACL != 0 {
		f &^= WithPermissions | WithReadOnly
	}
	if f&WithPermissions != 0 {
		f &^= WithReadOnly
	}
	if f&ExcludeNoDump != 0 {
		f &^= WithFlagNoDump
	}
	if f&WithSubvolumeRO != 0 {
		f |= WithSubvolume
	}
	return f
}

// Validate reports whether f may stand in an archive: known bits only, and
// normalised. The error matches ErrUnsupported.
func (f Flags) Validate() error {
	if x := f &^ known; x != 0 {
		return unsupported("unknown feature flags %#x", uint64(x))
	}
	if n := f.Normalize(); n != f {
		return unsupported("feature flags %#x are not normalised, want %#x", uint64(f), uint64(n))
	}
	return nil
}

// names maps each feature to its name on casync's command line, in bit order.
var names = [...]string{
	"16bit-uids", "32bit-uids", "user-names", "sec-time", "usec-time", "nsec-time", "2sec-time",
	"read-only", "permissions", "symlinks", "device-nodes", "fifos", "sockets",
	"flag-hidden", "flag-system", "flag-archive", "flag-append", "flag-noatime", "flag-compr",
	"flag-nocow", "flag-nodump", "flag-dirsync", "flag-immutable", "flag-sync", "flag-nocomp",
	"flag-projinherit", "subvolume", "subvolume-ro", "xattrs", "acl", "selinux", "fcaps", "quota-projid",
}

// ParseNames returns the features that casync's --with and --without options
// name: the union of with (everything when it is empty) less the union of
// without, normalised. The exclude and digest bits are the caller's to add. A
// name is a feature or one of the sets all, best, unix, fat, chattr, fat-attrs,
// privileged and fuse. The error for another name matches ErrUnsupported.
func ParseNames(with, without []string) (Flags, error) {
	in, out := Flags(withAll), Flags(0)
	for i, name := range with {
		f, err := parseName(name)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			in = 0
		}
		in |= f
	}
	for _, name := range without {
		f, err := parseName(name)
		if err != nil {
			return 0, err
		}
		out |= f
	}
	return (in &^ out).Normalize(), nil
}

func parseName(name string) (Flags, error) {
	switch name {
	case "all":
		return withAll, nil
	case "best":
		return setBest, nil
	case "unix":
		return setUnix, nil
	case "fat":
		return setFAT, nil
	case "chattr":
		return ChAttrs, nil
	case "fat-attrs":
		return FATAttrs, nil
	case "privileged":
		return setPrivileged, nil
	case "fuse":
		return setFUSE, nil
	}
	for i, n := range names {
		if n == name {
			return 1 << i, nil
		}
	}
	return 0, unsupported("unknown feature %q", name)
}

// String lists the features by name; it is for people.
func (f Flags) String() string {
	var s []string
	for i, n := range names {
		if f&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	for _, x := range []struct {
		bit  Flags
		name string
	}{
		{ExcludeFile, "exclude-file"},
		{SHA512_256, "sha512-256"},
		{ExcludeSubmounts, "exclude-submounts"},
		{ExcludeNoDump, "exclude-nodump"},
	} {
		if f&x.bit != 0 {
			s = append(s, x.name)
		}
	}
	if x := f &^ known; x != 0 {
		s = append(s, fmt.Sprintf("%#x", uint64(x)))
	}
	return strings.Join(s, ",")
}
