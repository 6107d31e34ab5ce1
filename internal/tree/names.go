package tree

import (
	"os/user"
	"strconv"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// names looks up the names of this system's users and groups, each once.
type names struct{ users, groups map[uint32]string }

func newNames() *names { return &names{users: map[uint32]string{}, groups: map[uint32]string{}} }

// user returns a user's name, empty if there is none that an archive may hold.
// Root needs no name.
func (n *names) user(id uint32) string {
	return cached(n.users, id, func(s string) (string, error) {
		u, err := user.LookupId(s)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (n *names) group(id uint32) string {
	return cached(n.groups, id, func(s string) (string, error) {
		g, err := user.LookupGroupId(s)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func cached(m map[uint32]string, id uint32, lookup func(string) (string, error)) string {
	if s, ok := m[id]; ok {
		return s
	}
	// An unknown id has no name, which is no error: the number says it all.
	s, err := lookup(strconv.FormatUint(uint64(id), 10))
	if err != nil || id == 0 || !catar.StorableName(s) {
		s = ""
	}
	m[id] = s
	return s
}
