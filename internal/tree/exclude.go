package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// excludeName is the file that says what of its directory is not archived:
// docs/format/caexclude.md.
const excludeName = ".caexclude"

// maxExcludeFile bounds an exclude file, in bytes.
const maxExcludeFile = 1 << 20

var errExcludeSize = errors.New("longer than 1 MiB")

// rule is a line of an exclude file, seen from one directory.
type rule struct {
	parts    []string // patterns of path components; the first is for this directory
	anchored bool     // it holds for this directory only, not below
	negative bool     // what it matches stays
	dirOnly  bool
}

// readExcludeFile reads the rules of a directory; none if it has no such file.
// Unlike casync it does not follow a symbolic link, which could lead anywhere.
func readExcludeFile(d *Dir) ([]rule, error) {
	f, err := d.Open(excludeName)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, errNotRegular) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxExcludeFile+1))
	if err == nil && len(b) > maxExcludeFile {
		err = errExcludeSize
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, d.error("read", excludeName, err)
	}
	rules, err := parseRules(string(b))
	return rules, d.error("parse", excludeName, err)
}

// parseRules parses an exclude file.
func parseRules(text string) ([]rule, error) {
	var rules []rule
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.Trim(line, " \t\r\v\f")
		if line == "" || line[0] == '#' {
			continue
		}
		r, err := parseRule(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// ErrExclude means that an exclude file has a line that is no rule.
var ErrExclude = errors.New("not an exclude rule")

func parseRule(line string) (rule, error) {
	var r rule
	rest, negative := strings.CutPrefix(line, "!")
	r.negative = negative
	r.dirOnly = strings.HasSuffix(rest, "/")
	r.anchored = strings.Contains(rest, "/")
	r.parts = strings.FieldsFunc(rest, func(c rune) bool { return c == '/' })
	if len(r.parts) == 0 || slices.Contains(r.parts, ".") || slices.Contains(r.parts, "..") {
		return rule{}, fmt.Errorf("%w: %q", ErrExclude, line)
	}
	return r, nil
}

// match applies the rules of a directory to one of its nodes. It returns
// whether the node is left out and, for a directory that stays, the rules that
// hold in it.
func match(rules []rule, name string, isDir bool) (excluded bool, below []rule) {
	kept := false
	for _, r := range rules {
		if !r.anchored {
			below = append(below, r)
		}
		if !fnmatch(r.parts[0], name) {
			continue
		}
		if len(r.parts) > 1 {
			if isDir {
				r.parts = r.parts[1:]
				below = append(below, r)
			}
			continue
		}
		if r.dirOnly && !isDir {
			continue
		}
		if r.negative {
			kept = true
		} else {
			excluded = true
		}
	}
	return excluded && !kept, below
}
