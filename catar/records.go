package catar

import (
	"bytes"
	"encoding/binary"
)

// rank orders the records of a node between ENTRY and its contents. Equal ranks
// may not follow each other unless the record is one of a list.
func rank(typ uint64) int {
	switch typ {
	case recUser:
		return 1
	case recGroup:
		return 2
	case recXAttr:
		return 3
	case recACLUser:
		return 4
	case recACLGroup:
		return 5
	case recACLGroupObj:
		return 6
	case recACLDefault:
		return 7
	case recACLDefaultUser:
		return 8
	case recACLDefaultGroup:
		return 9
	case recSELinux:
		return 10
	case recFCaps:
		return 11
	case recProjID:
		return 12
	}
	return 0
}

func isList(typ uint64) bool {
	switch typ {
	case recXAttr, recACLUser, recACLGroup, recACLDefaultUser, recACLDefaultGroup:
		return true
	}
	return false
}

// readRecords reads ENTRY, the metadata records in their order, and the record
// that only e's type has.
func (r *Reader) readRecords(e *Entry) error {
	if err := r.readEntry(e); err != nil {
		return err
	}
	last, meta := 0, uint64(0)
	for {
		h, err := r.header()
		if err != nil {
			return err
		}
		n := rank(h.typ)
		if n == 0 {
			return r.readTail(h, e)
		}
		if n < last || n == last && !isList(h.typ) {
			return h.errorf("out of place")
		}
		last = n
		// A size that wraps the sum is refused by the record's own limit.
		if meta += h.size; meta > maxNodeMeta {
			return h.errorf("more than %d bytes of metadata on one node", maxNodeMeta)
		}
		if err := r.readMeta(h, e); err != nil {
			return err
		}
	}
}

func (r *Reader) readEntry(e *Entry) error {
	h, err := r.header()
	if err != nil {
		return err
	}
	if h.typ != recEntry {
		return h.errorf("out of place, want ENTRY")
	}
	v, err := r.uint64s(h, 6)
	if err != nil {
		return err
	}
	if h.off == 0 {
		r.flags = Flags(v[0])
		if r.requires && r.flags != r.required {
			return h.errorf("feature flags %#x, those of the index are %#x", v[0], uint64(r.required))
		}
		if err := r.flags.Validate(); err != nil {
			return &Error{Offset: h.off, Record: "ENTRY", Reason: "feature flags", Err: err}
		}
	}
	if Flags(v[0]) != r.flags {
		return h.errorf("feature flags %#x, the first are %#x", v[0], uint64(r.flags))
	}
	if v[1]>>32 != 0 || v[3]>>32 != 0 || v[4]>>32 != 0 {
		return h.errorf("mode %#o or owner %d, %d out of range", v[1], v[3], v[4])
	}
	e.Mode, e.FileFlags, e.UID, e.GID, e.MTime = uint32(v[1]), Flags(v[2]), uint32(v[3]), uint32(v[4]), v[5]
	return nil
}

// readMeta reads one record that may stand between ENTRY and the contents.
func (r *Reader) readMeta(h header, e *Entry) error {
	var err error
	switch h.typ {
	case recUser:
		e.User, err = r.text(h, maxUserName)
	case recGroup:
		e.Group, err = r.text(h, maxUserName)
	case recXAttr:
		err = r.xattr(h, e)
	case recACLUser, recACLGroup, recACLGroupObj:
		err = r.acl(h, e)
	case recACLDefault:
		err = r.defaultACL(h, e)
	case recACLDefaultUser, recACLDefaultGroup:
		if e.DefaultACL == nil {
			return h.errorf("without ACL_DEFAULT")
		}
		l := &e.DefaultACL.Users
		if h.typ == recACLDefaultGroup {
			l = &e.DefaultACL.Groups
		}
		err = r.aclEntry(h, l)
	case recSELinux:
		e.SELinux, err = r.text(h, maxSELinux)
	case recFCaps:
		var b []byte
		b, err = r.body(h, 1, maxFCaps)
		e.FCaps = bytes.Clone(b)
	case recProjID:
		var v [6]uint64
		v, err = r.uint64s(h, 1)
		if err == nil && (v[0] == 0 || v[0]>>32 != 0) {
			return h.errorf("project id %d", v[0])
		}
		e.ProjID = uint32(v[0])
	}
	return err
}

// readTail reads the record that holds a file's contents, or nothing: h is then
// the next node's, and the caller's business.
func (r *Reader) readTail(h header, e *Entry) error {
	want := uint64(0)
	switch e.Mode & ModeType {
	case ModeRegular:
		want = recPayload
	case ModeSymlink:
		want = recSymlink
	case ModeBlock, ModeChar:
		want = recDevice
	case ModeDir, ModeFIFO, ModeSocket:
		return nil
	}
	if h.typ != want {
		return h.errorf("out of place in a node with mode %#o", e.Mode)
	}
	switch want {
	case recPayload:
		e.Size = h.size - headerSize
		if _, err := r.r.Discard(headerSize); err != nil {
			return r.readError("PAYLOAD", err)
		}
		r.off += headerSize
	case recSymlink:
		s, err := r.text(h, MaxTarget)
		e.Target = s
		return err
	case recDevice:
		v, err := r.uint64s(h, 2)
		if err != nil {
			return err
		}
		if v[0] >= maxMajor || v[1] >= maxMinor {
			return h.errorf("device %d:%d", v[0], v[1])
		}
		e.Major, e.Minor = uint32(v[0]), uint32(v[1])
	}
	return nil
}

// text reads a record whose body is a string of 1 to most bytes and a NUL.
func (r *Reader) text(h header, most int) (string, error) {
	b, err := r.body(h, 2, most+1)
	if err != nil {
		return "", err
	}
	if bytes.IndexByte(b, 0) != len(b)-1 {
		return "", h.errorf("string not ended by its only NUL")
	}
	return string(b[:len(b)-1]), nil
}

// uint64s reads a record of n numbers, at most 6.
func (r *Reader) uint64s(h header, n int) (v [6]uint64, err error) {
	b, err := r.body(h, 8*n, 8*n)
	if err != nil {
		return v, err
	}
	for i := range n {
		v[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return v, nil
}

func (r *Reader) xattr(h header, e *Entry) error {
	b, err := r.body(h, 2, maxXAttrName+1+maxXAttrValue)
	if err != nil {
		return err
	}
	name, value, ok := bytes.Cut(b, []byte{0})
	x := XAttr{Name: string(name), Value: bytes.Clone(value)}
	if !ok || !StorableXAttr(x) {
		return h.errorf("xattr %.300q of %d bytes may not be stored", name, len(value))
	}
	if n := len(e.XAttrs); n > 0 && e.XAttrs[n-1].Name >= x.Name {
		return h.errorf("xattr %q after %q", x.Name, e.XAttrs[n-1].Name)
	}
	e.XAttrs = append(e.XAttrs, x)
	return nil
}

func (r *Reader) acl(h header, e *Entry) error {
	if e.ACL == nil {
		e.ACL = &ACL{}
	}
	switch h.typ {
	case recACLUser:
		return r.aclEntry(h, &e.ACL.Users)
	case recACLGroup:
		return r.aclEntry(h, &e.ACL.Groups)
	}
	v, err := r.uint64s(h, 1)
	if err != nil {
		return err
	}
	if v[0] > 7 {
		return h.errorf("permissions %#o", v[0])
	}
	e.ACL.GroupObj, e.ACL.HasMask = Perm(v[0]), true
	return nil
}

func (r *Reader) defaultACL(h header, e *Entry) error {
	v, err := r.uint64s(h, 4)
	if err != nil {
		return err
	}
	a := &PosixACL{UserObj: Perm(v[0]), GroupObj: Perm(v[1]), Other: Perm(v[2])}
	if v[3] != noMask {
		a.Mask, a.HasMask = Perm(v[3]), true
	} else {
		v[3] = 0
	}
	if max(v[0], v[1], v[2], v[3]) > 7 {
		return h.errorf("permissions %#o, %#o, %#o, %#o", v[0], v[1], v[2], v[3])
	}
	e.DefaultACL = a
	return nil
}

func (r *Reader) aclEntry(h header, l *[]ACLEntry) error {
	b, err := r.body(h, 16, 16+maxUserName+1)
	if err != nil {
		return err
	}
	id, perm, name := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), b[16:]
	if id>>32 != 0 || perm > 7 {
		return h.errorf("id %d with permissions %#o", id, perm)
	}
	x := ACLEntry{ID: uint32(id), Perm: Perm(perm)}
	if len(name) > 0 {
		if bytes.IndexByte(name, 0) != len(name)-1 || len(name) == 1 {
			return h.errorf("bad name %q", name)
		}
		x.Name = string(name[:len(name)-1])
	}
	if n := len(*l); n > 0 && (*l)[n-1].Compare(x) >= 0 {
		return h.errorf("id %d (%q) after %d (%q)", x.ID, x.Name, (*l)[n-1].ID, (*l)[n-1].Name)
	}
	*l = append(*l, x)
	return nil
}
