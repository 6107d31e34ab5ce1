package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// maxID is the largest uid and gid: 2^32-1 means "none" to Linux.
const maxID = 1<<32 - 2

// lookUp finds the user that an image config names, USER or USER:GROUP, each by
// name or by number, in the image's own /etc/passwd and /etc/group. A number
// need not be there. Without a group the user's own one counts, and all those
// that have the user as a member.
func lookUp(name string, read ReadFile) (u *user, home string, err error) {
	userName, groupName, grouped := strings.Cut(name, ":")
	passwd, err := readTable(read, "etc/passwd", 6)
	if err != nil {
		return nil, "", err
	}
	group, err := readTable(read, "etc/group", 3)
	if err != nil {
		return nil, "", err
	}
	u = &user{}
	uid, numeric := parseID(userName)
	if userName == "" {
		numeric = true // root
	}
	u.UID = uid
	found := ""
	for _, e := range passwd {
		id, ok := parseID(e[2])
		gid, gok := parseID(e[3])
		if !ok || !gok || e[0] != userName && (!numeric || id != uid) {
			continue
		}
		u.UID, u.GID, home, found = id, gid, e[5], e[0]
		break
	}
	if found == "" && !numeric {
		return nil, "", fmt.Errorf("%w: the image's /etc/passwd has no user %q", ErrConfig, userName)
	}
	if grouped && groupName != "" {
		if u.GID, err = lookUpGroup(groupName, group); err != nil {
			return nil, "", err
		}
		u.Additional = []uint32{u.GID}
		return u, home, nil
	}
	// A process that drops its own group must not lose what files deny to that: the
	// group is one of the additional ones as well, as engines do it.
	u.Additional = []uint32{u.GID}
	for _, e := range group {
		id, ok := parseID(e[2])
		if ok && found != "" && len(e) > 3 && slices.Contains(strings.Split(e[3], ","), found) {
			u.Additional = append(u.Additional, id)
		}
	}
	slices.Sort(u.Additional)
	u.Additional = slices.Compact(u.Additional)
	return u, home, nil
}

func lookUpGroup(name string, group [][]string) (uint32, error) {
	for _, e := range group {
		if id, ok := parseID(e[2]); ok && e[0] == name {
			return id, nil
		}
	}
	if id, ok := parseID(name); ok {
		return id, nil
	}
	return 0, fmt.Errorf("%w: the image's /etc/group has no group %q", ErrConfig, name)
}

// parseID reads a uid or gid.
func parseID(s string) (uint32, bool) {
	id, err := strconv.ParseUint(s, 10, 32)
	return uint32(id), err == nil && id <= maxID
}

// readTable returns the fields of the lines of a file that have at least so many;
// none of a file that does not exist.
func readTable(read ReadFile, path string, fields int) ([][]string, error) {
	b, err := read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var table [][]string
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= fields && f[0] != "" {
			table = append(table, f)
		}
	}
	return table, nil
}
