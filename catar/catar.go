// Package catar reads and writes casync's archive format: a directory tree as
// one stream of records. docs/format/catar.md is its specification.
//
// A tree has exactly one encoding for a given set of feature flags, and Reader
// accepts nothing else: what it reads, Writer writes again byte for byte.
// Reader trusts nothing: a length is checked before memory is set aside for it,
// and every violation is an *Error with its byte offset.
//
// The package knows neither files nor the network. Names that Reader returns
// are single path components, safe to use below an open directory and nowhere
// else; a name may still be that of a symbolic link made by an earlier entry.
package catar

// The type of each record: docs/format/catar.md section 1.
const (
	recEntry           = 0x1396fabcea5bbb51
	recUser            = 0xf453131aaeeaccb3
	recGroup           = 0x25eb6ac969396a52
	recXAttr           = 0xb8157091f80bc486
	recACLUser         = 0x297dc88b2ef12faf
	recACLGroup        = 0x36f2acb56cb3dd0b
	recACLGroupObj     = 0x23047110441f38f3
	recACLDefault      = 0xfe3eeda6823c8cd0
	recACLDefaultUser  = 0xbdf03df9bd010a91
	recACLDefaultGroup = 0xa0cb1168782d1f51
	recSELinux         = 0x46faf0602fd26c59
	recFCaps           = 0xf7267db0afed0629
	recProjID          = 0x161baf2d8772a72b
	recSymlink         = 0x664a6fb6830e0d6c
	recDevice          = 0xac3dace369dfe643
	recPayload         = 0x8b9e1d93d6dcffc9
	recFilename        = 0x6dbb6ebcb3161f0b
	recGoodbye         = 0xdfd35c5e8327c403
	goodbyeTail        = 0x57446fa533702943
)

// recordName names a record type for people.
func recordName(t uint64) string {
	switch t {
	case recEntry:
		return "ENTRY"
	case recUser:
		return "USER"
	case recGroup:
		return "GROUP"
	case recXAttr:
		return "XATTR"
	case recACLUser:
		return "ACL_USER"
	case recACLGroup:
		return "ACL_GROUP"
	case recACLGroupObj:
		return "ACL_GROUP_OBJ"
	case recACLDefault:
		return "ACL_DEFAULT"
	case recACLDefaultUser:
		return "ACL_DEFAULT_USER"
	case recACLDefaultGroup:
		return "ACL_DEFAULT_GROUP"
	case recSELinux:
		return "SELINUX"
	case recFCaps:
		return "FCAPS"
	case recProjID:
		return "QUOTA_PROJID"
	case recSymlink:
		return "SYMLINK"
	case recDevice:
		return "DEVICE"
	case recPayload:
		return "PAYLOAD"
	case recFilename:
		return "FILENAME"
	case recGoodbye:
		return "GOODBYE"
	}
	return "unknown"
}

// Sizes of records and of their parts, in bytes.
const (
	headerSize      = 16
	entrySize       = 64
	goodbyeItemSize = 24
	aclNamedSize    = headerSize + 16 // without a name
	aclDefaultSize  = headerSize + 32
)

// Limits of the format.
const (
	// MaxDepth is the deepest that a node may lie; the root lies at 0.
	MaxDepth = 63
	// MaxName is the longest file name, in bytes.
	MaxName = 255
	// MaxTarget is the longest target of a symbolic link, in bytes.
	MaxTarget = 4095
	// MaxMTime is the latest time, in nanoseconds since 1970, that casync
	// extracts; it stores times before 1970 as values above it.
	MaxMTime = 1<<63 - 1

	maxUserName   = 255
	maxXAttrName  = 255
	maxXAttrValue = 65536
	maxFCaps      = 65536
	maxSELinux    = 4095
	maxMajor      = 1 << 12
	maxMinor      = 1 << 20

	// maxNodeMeta bounds the records of one node before its contents. The format
	// has no such limit; Linux keeps no node that comes near it.
	maxNodeMeta = 32 << 20
)
