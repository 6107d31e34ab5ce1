package assemble

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// stagePrefix begins the name of the directory, in the one that is updated, in which
// everything new is made. An update that was cut leaves it; its contents are found
// there by the next one, which removes it.
const stagePrefix = ".ociv2-sync-"

// Update makes dest, which holds anything, the image. What is there already stays:
// nodes that differ in metadata alone get that, and keep their inodes; nodes that do
// not differ are not touched. A node is replaced by one rename, when it is complete.
// What the image does not have is removed.
//
// Everything that is new is written beside what is there, verified, and on the disk
// before the first node changes. An error, or an interrupt, before that leaves dest
// as it was; after that, partly the one and partly the other, each node whole. To
// run Update again completes it.
//
// Something mounted in dest is tree.ErrMounted, before anything is changed.
func Update(ctx context.Context, job Job, dest *tree.Dir, opts Options) (*Stats, error) {
	opts.ContentsOnly = false
	b := newBuilder(job, dest, opts)
	s := &survey{b: b, held: make([]held, len(job.Nodes)), groups: make(map[int32]*group), inodes: make(map[[2]uint64]struct{})}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	u := &update{b: b, held: s.held, left: make(map[seed.Digest]int)}
	err := u.run(ctx)
	if u.stage != nil {
		err = errors.Join(err, u.stage.Close())
	}
	if err != nil {
		return nil, err
	}
	return b.result(), nil
}

// update is one run of Update.
type update struct {
	b    *builder
	held []held
	left map[seed.Digest]int // how many files are still to be made of a staged content

	stage     *tree.Dir // nil until something is made
	stageName string
	names     int // given in stage so far
	changed   bool
}

func (u *update) run(ctx context.Context) error {
	if err := u.contents(ctx); err != nil {
		return err
	}
	if u.stage != nil {
		// Names come after what they name, also when the power fails.
		if err := u.stage.Sync(); err != nil {
			return err
		}
	}
	at := u.b.cursor()
	defer at.close()
	err := u.b.walk(ctx, (*tree.Dir).OpenOwnDir, func(d *tree.Dir, i int32) error {
		return u.node(ctx, d, i, at)
	}, u.leave)
	if err == nil && u.changed {
		err = u.b.dest.Sync()
	}
	return err
}

// contents makes, in the stage, a file for each content of which a node is not in place.
func (u *update) contents(ctx context.Context) error {
	plan := *u.b.job.Plan
	for k := range plan.Contents {
		c := &plan.Contents[k]
		kept := int64(0)
		for _, i := range c.Nodes {
			if u.held[i] != heldNot {
				kept++
			}
		}
		u.b.kept.Add(kept)
		u.b.keptBytes.Add(kept * c.Size)
		u.b.opts.Progress(0, kept*c.Size)
		if anew := len(c.Nodes) - int(kept); anew > 0 {
			u.left[*c.Digest] = anew
		}
	}
	if len(u.left) == 0 && len(plan.Missing) == 0 {
		return nil
	}
	plan.Contents = slices.Clone(plan.Contents)
	for k := range plan.Contents {
		c := &plan.Contents[k]
		if u.left[*c.Digest] == 0 {
			c.Seed, c.Record = seed.None, seed.None
			continue
		}
		c.Nodes = slices.DeleteFunc(slices.Clone(c.Nodes), func(i int32) bool { return u.held[i] != heldNot })
	}
	stage, err := u.open()
	if err != nil {
		return err
	}
	job, opts := u.b.job, u.b.opts
	job.Plan, opts.ContentsOnly = &plan, true
	stats, err := Run(ctx, job, stage, opts)
	if err != nil {
		return err
	}
	u.b.add(stats)
	return nil
}

// open returns the stage.
func (u *update) open() (*tree.Dir, error) {
	if u.stage != nil {
		return u.stage, nil
	}
	name := stagePrefix + rand.Text()[:12]
	err := u.allowed(u.b.dest, func() (err error) {
		u.stage, err = u.b.dest.Mkdir(name)
		return err
	})
	u.stageName = name
	return u.stage, err
}

// allowed changes something in a directory; one that does not let its owner do so gets
// another mode first.
func (u *update) allowed(d *tree.Dir, change func() error) error {
	u.changed = true
	err := change()
	if errors.Is(err, unix.EACCES) {
		if err := d.Allow(); err != nil {
			return err
		}
		return change()
	}
	return err
}

// node makes node i what the image says.
func (u *update) node(ctx context.Context, d *tree.Dir, i int32, at *cursor) error {
	n := &u.b.job.Nodes[i]
	if u.held[i] == heldAll {
		return nil
	}
	if n.IsDir() {
		if u.held[i] == heldNode {
			return nil // its metadata come last
		}
		u.b.changed.Add(1)
		return u.allowed(d, func() error {
			if err := d.RemoveAll(n.Name); err != nil {
				return err
			}
			sub, err := d.Mkdir(n.Name)
			if err != nil {
				return err
			}
			return sub.Close()
		})
	}
	u.b.changed.Add(1)
	if u.held[i] == heldNode {
		u.changed = true
		un, err := d.SetMeta(n.Name, u.fresh(i))
		u.b.note(i, un)
		return err
	}
	name, err := u.make(ctx, i, at)
	if err != nil {
		return err
	}
	return u.allowed(d, func() error { return u.place(ctx, d, i, at, name) })
}

// place gives what node i is called in the stage, "" if it cannot be made, its own name in
// d, in place of what has it.
func (u *update) place(ctx context.Context, d *tree.Dir, i int32, at *cursor, name string) error {
	n := &u.b.job.Nodes[i]
	// Not what rename replaces, or nothing takes its place.
	state, err := d.State(n.Name)
	if err == nil && (state.IsDir() || name == "") {
		err = d.RemoveAll(n.Name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) || name == "" {
		return ignoreMissing(err)
	}
	err = d.MoveFrom(u.stage, name, n.Name)
	if n.Link >= 0 && errors.Is(err, unix.EMLINK) { // what counts are the names in one directory
		if name, err = u.alone(ctx, i, at, err); err == nil {
			err = d.MoveFrom(u.stage, name, n.Name)
		}
	}
	return err
}

// alone makes node i, a further name of another, a file of its own in the stage, since
// there is no room for the name, and returns what it is called there.
func (u *update) alone(ctx context.Context, i int32, at *cursor, reason error) (string, error) {
	from, err := at.dir(u.b.job.Nodes[i].Link)
	if err != nil {
		return "", err
	}
	u.names++
	name := strconv.Itoa(u.names)
	return name, u.b.alone(ctx, u.stage, name, i, from, reason)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// make makes node i, complete, in the stage and returns its name there, "" if it cannot
// be made.
func (u *update) make(ctx context.Context, i int32, at *cursor) (string, error) {
	stage, err := u.open()
	if err != nil {
		return "", err
	}
	n := &u.b.job.Nodes[i]
	u.names++
	name := strconv.Itoa(u.names)
	switch {
	case n.Link >= 0:
		made, err := u.b.further(ctx, stage, name, i, at)
		if !made {
			name = ""
		}
		return name, err
	case n.IsRegular():
		return name, u.file(ctx, i, name)
	case n.Type() == toc.TypeSymlink:
		err = stage.Symlink(n.Target, name)
	default:
		err = stage.Mknod(name, n.Mode, n.Major, n.Minor)
	}
	if err != nil && tree.MayLack(err) {
		u.b.lack(i, err)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	un, err := stage.SetMeta(name, u.fresh(i))
	u.b.note(i, un)
	return name, err
}

// fresh returns the metadata of node i, which was not made in a directory of which it is
// known that it hands no xattrs down.
func (u *update) fresh(i int32) tree.Meta {
	m := u.b.meta(i)
	m.NoXAttrs = false
	return m
}

// file makes the file of node i under a name in the stage. The last of a content takes the
// staged file itself.
func (u *update) file(ctx context.Context, i int32, name string) error {
	n := &u.b.job.Nodes[i]
	content := ContentName(n.Digest)
	if n.Size > 0 {
		u.left[n.Digest]--
	}
	if n.Size > 0 && u.left[n.Digest] == 0 {
		if err := u.stage.Rename(content, name); err != nil {
			return err
		}
		un, err := u.stage.SetMeta(name, u.fresh(i))
		u.b.note(i, un)
		return err
	}
	f, err := u.stage.Create(name)
	if err != nil {
		return err
	}
	if n.Size > 0 {
		var from *os.File
		if from, err = u.stage.Open(content); err == nil {
			err = errors.Join(u.b.duplicate(ctx, f, from, n.Size), from.Close())
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	un, err := tree.SetFileMeta(f, u.fresh(i))
	u.b.note(i, un)
	return errors.Join(err, f.Close())
}

// leave removes what the image does not have in a directory, and completes it.
func (u *update) leave(d *tree.Dir, i int32) error {
	nodes := u.b.job.Nodes
	names, err := d.Names()
	if err != nil {
		return err
	}
	if len(names) > 0 {
		wanted := make(map[string]bool)
		for k := int(i) + 1; k < len(nodes) && nodes[k].Depth > nodes[i].Depth; k++ {
			if nodes[k].Depth == nodes[i].Depth+1 {
				wanted[nodes[k].Name] = true
			}
		}
		for _, name := range names {
			if wanted[name] {
				continue
			}
			if err := u.allowed(d, func() error { return d.RemoveAll(name) }); err != nil {
				return err
			}
			if i != 0 || name != u.stageName {
				u.b.removed.Add(1)
			}
		}
	}
	m := u.fresh(i)
	self, err := d.Self()
	if err != nil || self.Has(m) {
		return err
	}
	u.changed = true
	un, err := d.SetSelf(m)
	u.b.note(i, un)
	return err
}
