package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// nameState is what a collection knows of an image name.
type nameState struct {
	name   string
	images map[string]*tagState // by tag; those that stay, once they are chosen
	index  *ocispec.Index       // nil without an index.json
	other  bool                 // a directory that is no image layout
	made   map[string]time.Time // when blobs were, by their name

	drop       []string // tags
	indexes    []string // of images of ours that have tags, or had them until now
	deadDeltas map[digest.Digest]bool
	blobs      map[string]bool // that are needed, by their name
}

// tagState is a tag and its images, in its order.
type tagState struct {
	*tagFile
	images []*Image
}

// reads is how many tags are read at a time.
const reads = 16

// readName reads the tags of a name.
func (c *collection) readName(ctx context.Context, name string) (*nameState, error) {
	n := &nameState{name: name, images: make(map[string]*tagState), made: make(map[string]time.Time), deadDeltas: make(map[digest.Digest]bool), blobs: make(map[string]bool)}
	n.other = true
	for e, err := range c.space.List(ctx, name, false) {
		if err != nil {
			return nil, fmt.Errorf("repo: %w", err)
		}
		if e.Path == name+"/"+ocispec.ImageIndexFile || e.Path == name+"/blobs" && e.Dir {
			n.other = false
		}
	}
	if n.other {
		return n, nil
	}
	b, err := c.space.ReadFile(ctx, name+"/"+ocispec.ImageIndexFile, maxTag)
	switch {
	case err == nil:
		if n.index, err = parseLayoutIndex(b); err != nil {
			return nil, objectError(c.space, name+"/"+ocispec.ImageIndexFile, err)
		}
	case !errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("repo: %w", err)
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reads)
	for e, err := range c.space.List(ctx, name, false) {
		if err != nil {
			return nil, errors.Join(fmt.Errorf("repo: %w", err), g.Wait())
		}
		tag, isTag := strings.CutSuffix(strings.TrimPrefix(e.Path, name+"/"), ".json")
		if e.Dir || !isTag || checkTag(tag) != nil {
			continue
		}
		g.Go(func() error {
			t, err := c.readTag(gctx, name, tag)
			mu.Lock()
			defer mu.Unlock()
			n.images[tag] = t
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for e, err := range c.space.List(ctx, name+"/blobs/sha256", true) {
		if err != nil {
			return nil, fmt.Errorf("repo: %w", err)
		}
		n.made[strings.TrimPrefix(e.Path, name+"/blobs/sha256/")] = e.ModTime
	}
	return n, nil
}

// readTag reads a tag and the manifests of its images.
func (c *collection) readTag(ctx context.Context, name, tag string) (*tagState, error) {
	path := name + "/" + tag + ".json"
	b, err := c.space.ReadFile(ctx, path, maxTag)
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	t, err := parseTag(b)
	if err != nil {
		return nil, objectError(c.space, path, err)
	}
	state := &tagState{tagFile: t}
	for _, d := range t.Images {
		// As in a directory: a store is told by its path below the repository.
		im := &Image{Ref: Ref{Repo: ".", Name: name, Tag: tag}, Digest: d.Digest, files: c.space}
		if im.ManifestBytes, err = im.object(ctx, t, d); err != nil {
			return nil, err
		}
		if im.Manifest, err = translate.ParseManifest(im.ManifestBytes); err != nil {
			return nil, objectError(c.space, path, err)
		}
		state.images = append(state.images, im)
	}
	return state, nil
}

// choose decides which tags and deltas go.
func (c *collection) choose() {
	c.chooseTags()
	c.chooseDeltas()
}

// chooseTags drops the tags that are not to be kept.
func (c *collection) chooseTags() {
	for _, n := range c.names {
		if c.opts.Keep > 0 || c.opts.KeepWithin > 0 {
			c.retain(n)
		}
		for tag, t := range n.images {
			n.indexes = append(n.indexes, t.indexes(tag)...)
		}
		for _, tag := range n.drop {
			delete(n.images, tag)
			c.done.Tags = append(c.done.Tags, n.name+":"+tag)
		}
	}
	slices.Sort(c.done.Tags)
}

// chooseDeltas finds the deltas that start at a tree which no device is known to have,
// and that are not young enough to stay all the same.
func (c *collection) chooseDeltas() {
	trees := c.reachable()
	for n, d := range c.deltas() {
		made, there := n.made[d.Blob.Encoded()]
		if d.From == "" || trees[d.From] || there && c.clock.Sub(made) < c.opts.KeepDeltas || n.deadDeltas[d.Blob] {
			continue
		}
		n.deadDeltas[d.Blob] = true
		c.done.Deltas++
	}
}

// reachable returns the trees that devices may have, as far as we know: those of tags,
// and those to which links lead from there.
func (c *collection) reachable() map[digest.Digest]bool {
	trees := make(map[digest.Digest]bool)
	for _, n := range c.names {
		for _, t := range n.images {
			for _, im := range t.images {
				trees[im.Manifest.TOCDigest] = true
			}
		}
	}
	for more := true; more; {
		more = false
		for _, d := range c.deltas() {
			if d.To != "" && trees[d.From] && !trees[d.To] {
				trees[d.To], more = true, true
			}
		}
	}
	return trees
}

// deltas yields every delta that a tag lists, and the name under which it does.
func (c *collection) deltas() iter.Seq2[*nameState, Delta] {
	return func(yield func(*nameState, Delta) bool) {
		for _, n := range c.names {
			for _, t := range n.images {
				for _, d := range t.all() {
					if !yield(n, d) {
						return
					}
				}
			}
		}
	}
}

// retain finds the tags of a name that are too many or too old.
func (c *collection) retain(n *nameState) {
	tags := slices.SortedFunc(maps.Keys(n.images), func(a, b string) int {
		return cmp.Or(n.images[b].Pushed.Compare(n.images[a].Pushed), cmp.Compare(n.images[b].Serial, n.images[a].Serial), cmp.Compare(a, b))
	})
	newest := make(map[string]bool) // by the images
	for _, tag := range tags {
		t := n.images[tag]
		var images strings.Builder
		for _, d := range t.Images {
			images.WriteString(d.Digest.String())
		}
		if newest[images.String()] || len(newest) < c.opts.Keep {
			newest[images.String()] = true
		} else if c.opts.KeepWithin <= 0 || c.opts.Now().Sub(t.Pushed) >= c.opts.KeepWithin {
			n.drop = append(n.drop, tag)
		}
	}
}

// mark notes which blobs and chunks a name needs.
func (c *collection) mark(ctx context.Context, n *nameState) error {
	need := func(d digest.Digest) { n.blobs[blobName(d)] = true }
	if len(n.images) > 0 {
		need(ocispec.DescriptorEmptyJSON.Digest)
	}
	seen := make(map[digest.Digest]bool)
	for _, t := range n.images {
		for _, d := range t.Others {
			if !n.deadDeltas[d.Digest] {
				need(d.Digest)
			}
		}
		for _, im := range t.images {
			need(im.Digest)
			for _, d := range im.Manifest.Blobs() {
				need(d.Digest)
			}
			if seen[im.Digest] {
				continue
			}
			seen[im.Digest] = true
			if err := c.markChunks(ctx, im); err != nil {
				return err
			}
		}
	}
	if err := c.markIndex(ctx, n, need); err != nil {
		return err
	}
	return c.markForeign(ctx, n.name, n.indexes...)
}

// markChunks notes which chunks an image needs, wherever it says that they are: this
// store may have more than one name.
func (c *collection) markChunks(ctx context.Context, im *Image) error {
	for _, read := range []func(context.Context) (Chunks, error){im.Catar, im.Extra} {
		x, err := read(ctx)
		if err != nil {
			return err
		}
		if x.Index != nil {
			c.need(x.Index)
		}
	}
	return nil
}

// markIndex notes what index.json still names: the manifests of deltas that
// stay, and what other tools have put there.
func (c *collection) markIndex(ctx context.Context, n *nameState, need func(digest.Digest)) error {
	if n.index == nil {
		return nil
	}
	for _, d := range n.index.Manifests {
		switch {
		case d.ArtifactType == MediaTypeDelta:
			m, err := readManifest(ctx, c.space, n.name, d)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return n.blobs[blobName(l.Digest)] }) {
				need(d.Digest)
			}
		case slices.Contains(n.drop, d.Annotations[ocispec.AnnotationRefName]):
		default:
			if err := c.markForeignManifest(ctx, n, d, need, maxNesting); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxNesting is how deep indexes may lie in indexes.
const maxNesting = 4

func (c *collection) markForeignManifest(ctx context.Context, n *nameState, d ocispec.Descriptor, need func(digest.Digest), depth int) error {
	need(d.Digest)
	if blobName(d.Digest) == "" {
		return nil
	}
	if depth == 0 {
		return objectError(c.space, blobPath(n.name, d.Digest), malformed("indexes in indexes in indexes"))
	}
	if !strings.HasSuffix(d.MediaType, "+json") {
		return nil
	}
	m, err := readManifest(ctx, c.space, n.name, d)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, l := range append(m.Layers, m.configs()...) {
		need(l.Digest)
	}
	for _, sub := range m.Manifests {
		if err := c.markForeignManifest(ctx, n, sub, need, depth-1); err != nil {
			return err
		}
	}
	return nil
}

func (m *anyManifest) configs() []ocispec.Descriptor {
	if m.Config == nil {
		return nil
	}
	return []ocispec.Descriptor{*m.Config}
}

// blobName returns the file name of a blob; "" for a digest that has none.
func blobName(d digest.Digest) string {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return ""
	}
	return d.Encoded()
}

// updateName takes what goes out of the files of a name that change.
func (c *collection) updateName(ctx context.Context, u *updater, n *nameState) error {
	if len(n.drop)+len(n.deadDeltas) == 0 {
		return nil
	}
	for _, tag := range slices.Sorted(maps.Keys(n.images)) {
		if !slices.ContainsFunc(n.images[tag].Others, func(d ocispec.Descriptor) bool { return n.deadDeltas[d.Digest] }) {
			continue
		}
		err := u.update(ctx, n.name+"/"+tag+".json", maxTag, func(old []byte) ([]byte, error) {
			t, err := parseTag(old)
			if err != nil {
				return nil, err
			}
			t.Others = slices.DeleteFunc(t.Others, func(d ocispec.Descriptor) bool { return n.deadDeltas[d.Digest] })
			t.Serial = t.nextSerial(c.opts.Now())
			return t.encode()
		})
		if err != nil {
			return err
		}
	}
	return u.dropTags(ctx, n.name, n.drop)
}
