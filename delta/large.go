package delta

import (
	"context"
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
)

// piece is a part of a content that is too large to be held in memory together
// with its base: it is looked for in a window of the base.
type piece struct {
	offset, size int64
	last         bool
	base         *landmarks // nil for none
	end          int64      // where in the base its last copy ends
}

// windowCost is the part of the memory that one window and its index may take:
// two are worked on at a time.
const windowCost = 3

// window returns how large the windows of large contents are, in bytes. A part has half
// of that.
func (m *maker) window() int64 { return max(m.opts.Memory/(windowCost*indexCost), 1<<16) }

// large reports whether a content of size bytes does not fit into the memory.
func (m *maker) large(size int64) bool { return 2*size > m.opts.Memory }

// addParts adds the jobs of a large content, one for each part.
func (m *maker) addParts(j job) {
	var base *landmarks
	step := m.window() / 2
	if len(j.bases) > 0 {
		at := j.bases[0]
		if base = m.marks[at]; base == nil {
			base = &landmarks{m: m, old: m.old[at], every: sampling(step)}
			m.marks[at] = base
		}
	}
	for at := int64(0); at < j.Size; at += step {
		p := j
		p.done = make(chan struct{})
		p.part = &piece{offset: at, size: min(step, j.Size-at), last: at+step >= j.Size, base: base}
		m.jobs = append(m.jobs, p)
	}
}

// matchPart makes the instructions for a part.
func (m *maker) matchPart(ctx context.Context, j *job) error {
	p := j.part
	b, err := m.to.Read(ctx, j.node, p.offset, p.size)
	if err != nil {
		return err
	}
	if p.base == nil {
		j.script.build(nil, b, m.opts.Memory)
		return nil
	}
	j.filters = []uint64{filterNone}
	if err := p.base.find(ctx); err != nil {
		return err
	}
	return m.matchWindow(ctx, j, b, p.offset, len(b)/16)
}

// matchWindow appends the instructions for b, which is at offset in the content, and is
// halved down to least bytes as long as it comes from several places.
func (m *maker) matchWindow(ctx context.Context, j *job, b []byte, offset int64, least int) error {
	p := j.part
	from, size, sure := p.base.place(b, offset, j.Size)
	if half := len(b) / 2; !sure && half >= max(least, 4096) {
		if err := m.matchWindow(ctx, j, b[:half], offset, least); err != nil {
			return err
		}
		return m.matchWindow(ctx, j, b[half:], offset+int64(half), least)
	}
	old, err := m.from.Read(ctx, p.base.old.node, from, size)
	if err != nil {
		return err
	}
	p.end = j.script.extend(old, b, from, p.end, m.opts.Memory)
	return nil
}

// follow makes the script of a part, which was made as if nothing came before it, go on
// where the last copy of the part before ended. It returns where that of this one does.
func (j *job) follow(end int64) int64 {
	if j.part.offset == 0 {
		end = 0
	}
	seeks := j.script[streamSeeks]
	seek, n := binary.Varint(seeks)
	if n <= 0 {
		return end // it copies nothing
	}
	j.script[streamSeeks] = slices.Concat(binary.AppendVarint(nil, seek-end), seeks[n:])
	return j.part.end
}

// landmarks are places of a large base that can be recognised: where a rolling
// hash has a value that one place in so many has, and no other of the same value.
type landmarks struct {
	m     *maker
	old   entry
	every uint64 // a power of two

	once sync.Once
	err  error
	at   map[uint64]int64 // by hash; -1 for one of several places
}

// sampling is the distance of landmarks, a power of two, for parts of size bytes.
func sampling(size int64) uint64 { return 1 << bits.Len64(uint64(size/128)) }

// find reads the base, once.
func (l *landmarks) find(ctx context.Context) error {
	l.once.Do(func() {
		l.at = make(map[uint64]int64)
		var roll roller
		l.err = l.m.readParts(ctx, l.m.from, l.old, func(b []byte, offset int64) {
			for i, c := range b {
				if f := roll.next(c); f&(l.every-1) == 0 && roll.full() {
					if _, dup := l.at[f]; dup {
						l.at[f] = -1
					} else {
						l.at[f] = offset + int64(i)
					}
				}
			}
		})
	})
	return l.err
}

// place says which window of the base b, at offset in a content of size bytes, is
// looked for in: where most of the landmarks in it are, else in proportion. It is not sure
// if others are somewhere else.
func (l *landmarks) place(b []byte, offset, size int64) (from, length int64, sure bool) {
	length = min(2*int64(len(b)), l.old.Size)
	slack := max(0, length-int64(len(b)))
	var shifts []int64 // where in the base b would begin, going by one landmark
	var roll roller
	for i, c := range b {
		if f := roll.next(c); f&(l.every-1) == 0 && roll.full() {
			if at, ok := l.at[f]; ok && at >= 0 {
				shifts = append(shifts, at-int64(i))
			}
		}
	}
	slices.Sort(shifts)
	begin := int64(float64(offset) / float64(size) * float64(l.old.Size))
	best, first := 0, 0
	for i, s := range shifts {
		for s-shifts[first] > slack {
			first++
		}
		if n := i - first + 1; n > best {
			best, begin = n, shifts[first]+(s-shifts[first])/2
		}
	}
	from = min(max(0, begin-slack/2), l.old.Size-length)
	return from, length, best*16 >= len(shifts)*15
}

// readParts reads a large content from its beginning to its end, in parts.
func (m *maker) readParts(ctx context.Context, t *Tree, e entry, see func(b []byte, offset int64)) error {
	step := m.window() / 2
	for at := int64(0); at < e.Size; at += step {
		b, err := t.Read(ctx, e.node, at, min(step, e.Size-at))
		if err != nil {
			return err
		}
		see(b, at)
	}
	return nil
}

// sketch returns the features of a content, which is read in parts if it is large.
func (m *maker) sketch(ctx context.Context, t *Tree, e entry) ([]uint64, error) {
	var s sketch
	if m.large(e.Size) {
		err := m.readParts(ctx, t, e, func(b []byte, _ int64) { s.add(b) })
		return s.least, err
	}
	b, err := t.Read(ctx, e.node, 0, e.Size)
	if err != nil {
		return nil, err
	}
	data, _ := view(b, maxExpanded)
	s.add(data)
	return s.least, nil
}
