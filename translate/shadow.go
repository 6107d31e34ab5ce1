package translate

import "strings"

// shadow is what the layers read so far, all above the one being read, hide in
// it, as far as names alone tell: symlinks in their paths are not known yet.
type shadow struct {
	whole  map[string]struct{} // hidden with all below
	below  map[string]struct{} // all below is hidden
	linked map[string]struct{} // may live on under another name
}

func newShadow() *shadow {
	return &shadow{map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}}
}

// add takes note of a layer.
func (s *shadow) add(ops []op) {
	for _, o := range ops {
		switch o.kind {
		case opSet:
			if !o.ino.isDir() {
				s.whole[o.path] = struct{}{}
			}
		case opLink:
			s.whole[o.path] = struct{}{}
			s.linked[o.target] = struct{}{}
		case opRemove:
			s.whole[o.path] = struct{}{}
		case opClear:
			s.below[o.path] = struct{}{}
		}
	}
}

// hides reports whether nothing of the file at p is likely to be needed.
func (s *shadow) hides(p string) bool {
	if _, ok := s.linked[p]; ok {
		return false
	}
	if _, ok := s.whole[p]; ok {
		return true
	}
	for p != "" {
		p = p[:max(strings.LastIndexByte(p, '/'), 0)]
		if _, ok := s.whole[p]; ok {
			return true
		}
		if _, ok := s.below[p]; ok {
			return true
		}
	}
	return false
}
