package delta

import (
	"cmp"
	"context"
	"path"
	"regexp"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// version matches what changes in names from one release to the next.
var version = regexp.MustCompile(`[0-9]+([._~+-]?[0-9]+)*`)

// entry is a content of a tree with the first of its names.
type entry struct {
	Content
	node int
	path string
}

// entries returns the content table of a tree: the distinct non-empty contents
// in the order in which they first occur.
func entries(nodes []toc.Node) []entry {
	var list []entry
	seen := make(map[Digest]bool)
	var dirs []string
	for i := range nodes {
		n := &nodes[i]
		p := ""
		if n.Depth > 0 {
			dirs = dirs[:n.Depth]
			p = dirs[n.Depth-1] + "/" + n.Name
		}
		dirs = append(dirs[:n.Depth], p)
		if n.IsRegular() && n.Size > 0 && n.Link < 0 && !seen[n.Digest] {
			seen[n.Digest] = true
			list = append(list, entry{Content{n.Digest, n.Size}, i, p})
		}
	}
	return list
}

// selector chooses bases among the contents of the old tree.
type selector struct {
	old    []entry
	path   map[string]int   // by path
	name   map[string][]int // by path without versions
	base   map[string][]int // by file name without versions
	sketch map[uint64][]int32
}

// newSelector indexes the contents of the old tree by all their names.
func newSelector(nodes []toc.Node, old []entry) *selector {
	s := &selector{old: old, path: make(map[string]int), name: make(map[string][]int), base: make(map[string][]int)}
	index := make(map[Digest]int, len(old))
	for i, e := range old {
		index[e.Digest] = i
	}
	var dirs []string
	for i := range nodes {
		n := &nodes[i]
		p := ""
		if n.Depth > 0 {
			dirs = dirs[:n.Depth]
			p = dirs[n.Depth-1] + "/" + n.Name
		}
		dirs = append(dirs[:n.Depth], p)
		if !n.IsRegular() || n.Size == 0 {
			continue
		}
		at := index[n.Digest]
		s.path[p] = at
		q := version.ReplaceAllString(p, "#")
		s.name[q] = append(s.name[q], at)
		q = path.Base(q)
		s.base[q] = append(s.base[q], at)
	}
	return s
}

// byName returns the content of the old tree that has the same path as e, else
// the same path or file name but for a version, that of the nearest size; -1
// for none.
func (s *selector) byName(e entry) int {
	if at, ok := s.path[e.path]; ok {
		return at
	}
	q := version.ReplaceAllString(e.path, "#")
	for _, list := range [][]int{s.name[q], s.base[path.Base(q)]} {
		if len(list) > 0 {
			return slices.MinFunc(list, func(a, b int) int {
				return cmp.Compare(distance(s.old[a].Size, e.Size), distance(s.old[b].Size, e.Size))
			})
		}
	}
	return -1
}

func distance(a, b int64) int64 { return max(a-b, b-a) }

const (
	// sketchSize is how many features stand for a content.
	sketchSize = 32
	// similar is how many of them two contents must share.
	similar = 2
	// crowd is how many contents may share a feature that tells them apart.
	crowd = 32
)

// index reads all contents of the old tree for bySimilarity.
func (s *selector) index(ctx context.Context, read func(context.Context, int) ([]byte, error)) error {
	s.sketch = make(map[uint64][]int32)
	for i, e := range s.old {
		b, err := read(ctx, e.node)
		if err != nil {
			return err
		}
		data, _ := view(b, maxExpanded)
		for _, f := range features(data) {
			if len(s.sketch[f]) < crowd {
				s.sketch[f] = append(s.sketch[f], int32(i))
			}
		}
	}
	return nil
}

// bySimilarity returns the two contents of the old tree that share most with b,
// as far as there are any.
func (s *selector) bySimilarity(b []byte) []int {
	votes := make(map[int32]int)
	for _, f := range features(b) {
		for _, i := range s.sketch[f] {
			votes[i]++
		}
	}
	var best []int32
	for i, n := range votes {
		if n >= similar {
			best = append(best, i)
		}
	}
	slices.SortFunc(best, func(a, b int32) int {
		return cmp.Or(cmp.Compare(votes[b], votes[a]), cmp.Compare(a, b))
	})
	var out []int
	for _, i := range best[:min(2, len(best))] {
		out = append(out, int(i))
	}
	return out
}

// features returns a min-hash sketch of b: the smallest values of a rolling
// hash over 64 bytes. Contents that share a part of their bytes share about
// that part of their features.
func features(b []byte) []uint64 {
	var h uint64
	var least []uint64 // sorted
	for i, c := range b {
		h = h<<1 + (uint64(c)+1)*0x9e3779b97f4a7c15
		if i < 63 {
			continue
		}
		f := h * 0xd6e8feb86659fd93
		f ^= f >> 32
		if len(least) == sketchSize && f >= least[sketchSize-1] {
			continue
		}
		at, dup := slices.BinarySearch(least, f)
		if dup {
			continue
		}
		if len(least) == sketchSize {
			least = least[:sketchSize-1]
		}
		least = slices.Insert(least, at, f)
	}
	return least
}
