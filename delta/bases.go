package delta

import (
	"cmp"
	"iter"
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

// paths yields the numbers of the nodes of a tree and their paths, each with a slash in
// front; the root's is empty.
func paths(nodes []toc.Node) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		var dirs []string // down to the node
		for i := range nodes {
			n := &nodes[i]
			p := ""
			if n.Depth > 0 {
				p = dirs[n.Depth-1] + "/" + n.Name
			}
			dirs = append(dirs[:n.Depth], p)
			if !yield(i, p) {
				return
			}
		}
	}
}

// entries returns the content table of a tree: the distinct non-empty contents
// in the order in which they first occur.
func entries(nodes []toc.Node) []entry {
	var list []entry
	seen := make(map[Digest]bool)
	for i, p := range paths(nodes) {
		n := &nodes[i]
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
	for i, p := range paths(nodes) {
		n := &nodes[i]
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
func (s *selector) index(features func(entry) ([]uint64, error)) error {
	s.sketch = make(map[uint64][]int32)
	for i, e := range s.old {
		list, err := features(e)
		if err != nil {
			return err
		}
		for _, f := range list {
			if len(s.sketch[f]) < crowd {
				s.sketch[f] = append(s.sketch[f], int32(i))
			}
		}
	}
	return nil
}

// bySimilarity returns the two contents of the old tree that share most features
// with a content, as far as there are any.
func (s *selector) bySimilarity(features []uint64) []int {
	votes := make(map[int32]int)
	for _, f := range features {
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

// roller is a rolling hash over 64 bytes.
type roller struct {
	h uint64
	n int
}

// next returns the hash of the bytes up to c.
func (r *roller) next(c byte) uint64 {
	r.n++
	r.h = r.h<<1 + (uint64(c)+1)*0x9e3779b97f4a7c15
	f := r.h * 0xd6e8feb86659fd93
	return f ^ f>>32
}

// full reports whether there have been 64 bytes.
func (r *roller) full() bool { return r.n >= 64 }

// sketch is a min-hash sketch: the smallest values of a rolling hash. Contents
// that share a part of their bytes share about that part of their features.
type sketch struct {
	roll  roller
	least []uint64 // sorted
}

// add continues the content with b.
func (s *sketch) add(b []byte) {
	for _, c := range b {
		f := s.roll.next(c)
		if !s.roll.full() || len(s.least) == sketchSize && f >= s.least[sketchSize-1] {
			continue
		}
		at, dup := slices.BinarySearch(s.least, f)
		if dup {
			continue
		}
		if len(s.least) == sketchSize {
			s.least = s.least[:sketchSize-1]
		}
		s.least = slices.Insert(s.least, at, f)
	}
}
