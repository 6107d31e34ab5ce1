package translate

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"slices"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// The PAX records that hold xattrs. libarchive writes both kinds; the first is
// the one all others write, and has precedence.
const (
	paxSchily     = "SCHILY.xattr."     // + raw name = raw value
	paxLibarchive = "LIBARCHIVE.xattr." // + percent-encoded name = base64 value
)

// xattrs collects the extended attributes of a tar entry, sorted. What names the
// policy of one host (SELinux labels, NFSv4 ACLs) is left out, as umoci does.
func (m *merger) xattrs(records map[string]string) ([]toc.XAttr, error) {
	var list []toc.XAttr
	for key := range records {
		name, value, ok, err := xattrOf(records, key)
		if err != nil {
			return nil, err
		}
		if !ok || name == "security.selinux" || name == "system.nfs4_acl" {
			continue
		}
		if name == "" || len(name) > toc.MaxName || strings.IndexByte(name, 0) >= 0 {
			return nil, malformed("xattr name %q", name)
		}
		if len(value) > m.limits.XAttr {
			return nil, exceeded("bytes of xattr "+name, int64(m.limits.XAttr))
		}
		if err := m.charge(len(name) + len(value)); err != nil {
			return nil, err
		}
		list = append(list, toc.XAttr{Name: strings.Clone(name), Value: []byte(value)})
	}
	slices.SortFunc(list, func(a, b toc.XAttr) int { return cmp.Compare(a.Name, b.Name) })
	names := 0
	for i := range list {
		if names += len(list[i].Name) + 1; names > toc.MaxXAttrNames {
			return nil, exceeded("bytes of the names of xattrs", toc.MaxXAttrNames)
		}
		if i > 0 && list[i].Name == list[i-1].Name {
			return nil, malformed("xattr %q twice", list[i].Name)
		}
	}
	return list, nil
}

// xattrOf returns the extended attribute that a PAX record holds. It reports whether it
// holds one, and no record that has precedence holds the same.
func xattrOf(records map[string]string, key string) (name, value string, ok bool, err error) {
	if name, ok := strings.CutPrefix(key, paxSchily); ok {
		return name, records[key], true, nil
	}
	encoded, ok := strings.CutPrefix(key, paxLibarchive)
	if !ok {
		return "", "", false, nil
	}
	name, value, err = libarchiveXAttr(encoded, records[key])
	_, twice := records[paxSchily+name]
	return name, value, !twice, err
}

func libarchiveXAttr(encodedName, encodedValue string) (name, value string, err error) {
	name, err = url.PathUnescape(encodedName)
	if err != nil {
		return "", "", malformed("xattr name: %w", err)
	}
	// libarchive leaves the padding out.
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encodedValue, "="))
	if err != nil {
		return "", "", malformed("value of xattr %q: %w", name, err)
	}
	return name, string(raw), nil
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	capability = "security.capability"
)

// settle gives n the mode and xattrs that it has once Linux has applied both:
// an access ACL decides the permissions and vanishes if they say all that it
// says, ACL entries have one order, and capabilities for the initial user
// namespace have one form. ACLs that Linux would refuse, or on nodes that
// cannot have them, stay as they are for whoever restores them to report.
func settle(n *toc.Node) {
	kept := n.XAttrs[:0]
	for _, x := range n.XAttrs {
		switch {
		case x.Name == capability:
			x.Value = capabilityForm(x.Value)
		case x.Name == aclAccess && n.Type() != toc.TypeSymlink, x.Name == aclDefault && n.IsDir():
			acl, err := catar.ParsePosixACL(x.Value)
			if err != nil {
				break
			}
			x.Value = acl.XAttr()
			if x.Name == aclAccess {
				n.Mode = acl.Mode(n.Mode)
				if acl.Access() == nil {
					continue
				}
			}
		}
		kept = append(kept, x)
	}
	n.XAttrs = kept
	if len(kept) == 0 {
		n.XAttrs = nil
	}
}

// The capability xattr: u32 revision and flags, pairs of u32 sets, and in
// revision 3 the u32 root id of a user namespace.
const (
	capRevMask = 0xff000000
	capRev2    = 0x02000000
	capRev3    = 0x03000000
	capSize2   = 20
	capSize3   = 24
)

// capabilityForm turns file capabilities of revision 3 with root id 0 into
// revision 2, as Linux does when it is asked for them.
func capabilityForm(v []byte) []byte {
	if len(v) != capSize3 || binary.LittleEndian.Uint32(v[capSize2:]) != 0 {
		return v
	}
	head := binary.LittleEndian.Uint32(v)
	if head&capRevMask != capRev3 {
		return v
	}
	v = slices.Clone(v[:capSize2])
	binary.LittleEndian.PutUint32(v, head&^capRevMask|capRev2)
	return v
}
