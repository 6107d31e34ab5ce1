package assemble

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// held says what an update leaves of a node.
type held uint8

const (
	heldNot  held = iota // it is made anew
	heldNode             // it stays, with other metadata
	heldAll              // it stays as it is
)

// survey is a look through the directory that is to be updated.
type survey struct {
	b      *builder
	held   []held // by node
	groups map[int32]*group
	inodes map[[2]uint64]struct{} // of nodes with several names
	read   []int32                // files whose bytes must be hashed to know
}

// group is a node with several names in the image, as the directory has its first.
type group struct {
	inode [2]uint64
	links int // names that it has anywhere
	found int // further names that the image wants and that are there
}

// look finds out what of the tree is in place already. It changes nothing but
// the modes of directories that could not be opened.
func (s *survey) look(ctx context.Context) error {
	for i := range s.b.job.Nodes {
		if l := s.b.job.Nodes[i].Link; l >= 0 && s.groups[l] == nil {
			s.groups[l] = &group{}
		}
	}
	if err := s.dir(ctx, s.b.dest, 0); err != nil {
		return err
	}
	for leader, g := range s.groups {
		if s.held[leader] == heldNode && g.links != 1+g.found {
			s.held[leader] = heldNot // another name would get the new metadata too
		}
	}
	if err := s.hash(ctx); err != nil {
		return err
	}
	for i := range s.b.job.Nodes {
		if l := s.b.job.Nodes[i].Link; l >= 0 && s.held[l] == heldNot {
			s.held[i] = heldNot
		}
	}
	return nil
}

// dir looks at an open directory, which is node i, and at all below it.
func (s *survey) dir(ctx context.Context, d *tree.Dir, i int32) error {
	self, err := d.Self()
	if err != nil {
		return err
	}
	s.held[i] = heldNode
	if self.Has(s.b.meta(i)) {
		s.held[i] = heldAll
	}
	names, err := d.Names()
	if err != nil {
		return err
	}
	have := make(map[string]bool, len(names))
	for _, n := range names {
		have[n] = true
	}
	for k := i + 1; int(k) < len(s.b.job.Nodes) && s.b.job.Nodes[k].Depth > s.b.job.Nodes[i].Depth; k++ {
		n := &s.b.job.Nodes[k]
		if s.b.parent[k] != i || !have[n.Name] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		delete(have, n.Name)
		if err := s.node(ctx, d, k); err != nil {
			return s.b.at(k, err)
		}
	}
	for name := range have { // what will be removed
		if err := d.Unmounted(name); err != nil {
			return err
		}
	}
	return nil
}

// node looks at what a directory has under the name of node i.
func (s *survey) node(ctx context.Context, d *tree.Dir, i int32) error {
	n := &s.b.job.Nodes[i]
	state, err := d.State(n.Name)
	if err != nil {
		return err
	}
	if !state.Is(n) {
		if state.IsDir() {
			return d.Unmounted(n.Name)
		}
		return nil
	}
	if n.IsDir() {
		sub, err := d.OpenOwnDir(n.Name)
		if err != nil {
			return err
		}
		return errors.Join(s.dir(ctx, sub, i), sub.Close())
	}
	if n.Link >= 0 {
		if g := s.groups[n.Link]; s.held[n.Link] != heldNot && g.inode == state.Inode() {
			s.held[i] = heldAll // with its first name
			g.found++
		}
		return nil
	}
	g := s.groups[i]
	if state.Links() > 1 {
		if _, taken := s.inodes[state.Inode()]; taken {
			return nil // two nodes of the image must not be one
		}
		s.inodes[state.Inode()] = struct{}{}
	}
	if g != nil {
		g.inode, g.links = state.Inode(), state.Links()
	}
	switch {
	case state.Has(s.b.meta(i)):
		s.held[i] = heldAll
	case g == nil && state.Links() > 1:
		return nil // another name would get the new metadata too
	default:
		s.held[i] = heldNode
	}
	if n.IsRegular() && n.Size > 0 {
		s.read = append(s.read, i)
	}
	return nil
}

// hash gives up the files that have other bytes than the image says.
func (s *survey) hash(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	const batch = 64
	work := make(chan []int32)
	g.Go(func() error {
		defer close(work)
		for at := 0; at < len(s.read); at += batch {
			select {
			case work <- s.read[at:min(at+batch, len(s.read))]:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range s.b.opts.Copies {
		g.Go(func() error {
			at := s.b.cursor()
			defer at.close()
			hasher := tree.NewHasher()
			for nodes := range work {
				if err := s.hashNodes(ctx, at, hasher, nodes); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// hashNodes is hash for some files, and changes what is known of these alone.
func (s *survey) hashNodes(ctx context.Context, at *cursor, hasher *tree.Hasher, nodes []int32) error {
	for _, i := range nodes {
		if s.held[i] == heldNot {
			continue
		}
		ok, err := s.same(ctx, at, hasher, i)
		if err != nil {
			return err
		}
		if !ok {
			s.held[i] = heldNot
		}
	}
	return nil
}

// same reports whether the file of node i has its bytes.
func (s *survey) same(ctx context.Context, at *cursor, hasher *tree.Hasher, i int32) (bool, error) {
	d, err := at.dir(i)
	if err != nil {
		return false, err
	}
	ok, err := hasher.Has(ctx, d, &s.b.job.Nodes[i])
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return false, nil
	}
	return ok, err
}
