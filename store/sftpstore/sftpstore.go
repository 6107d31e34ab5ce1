// Package sftpstore keeps files on a far machine through SFTP, over the
// system's ssh: those of a repository, and chunks.
//
// One connection serves all requests, however many there are at a time; when it
// breaks or stalls, a new one is made and what was under way is done again. A
// file is written under a temporary name, synced where the server can
// (fsync@openssh.com), and renamed (posix-rename@openssh.com): it is there whole
// or not at all. A file that must not be replaced gets its name by a link
// (hardlink@openssh.com), which fails where there is one.
package sftpstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// Options say how to reach far machines. The zero value works.
type Options struct {
	// SSH is how ssh is run and what happens when a connection fails. Its Remote
	// is not used.
	SSH sshstore.Options
	// Server is the program that is started on the far side of an ssh URL, with
	// the arguments serve --stdio; where it is not to be had the server's sftp
	// subsystem takes its place. "" means ociv2-sync.
	Server string
}

// Dir is a directory on a far machine.
type Dir struct {
	conn *conn
	name string
	base string
}

// Open returns the directory at an ssh or sftp URL, of the forms that
// [sshstore.ParseURL] knows: an ssh URL asks for this program on the far side and
// takes the server's sftp subsystem where it is not; an sftp URL takes that alone.
// It connects when it is used. Call [Dir.Close] when done with it.
func Open(rawURL string, o Options) (*Dir, error) {
	rest, plain := strings.CutPrefix(rawURL, "sftp://")
	at, err := sshstore.ParseURL("ssh://" + strings.TrimPrefix(rest, "ssh://"))
	if err != nil {
		return nil, err
	}
	o.SSH = o.SSH.WithDefaults()
	said := sshstore.NewSaid(o.SSH.Stderr)
	o.SSH.Stderr = said
	ways := []*way{{command: cmp.Or(o.Server, "ociv2-sync") + " serve --stdio"}, subsystem}
	if plain {
		ways = ways[1:]
	}
	return &Dir{
		conn: &conn{at: at, opts: o, said: said, flow: flow.New(mostFiles), ways: ways, turn: make(chan struct{}, 1)},
		name: strings.TrimSuffix(rawURL, "/"), base: at.Path,
	}, nil
}

// expectParts is how many parts of each blob of an image are asked for before it is known
// how many there are: enough for a tree of some 25,000 nodes and 800 MB. What is beyond
// takes a round trip more.
var expectParts = [sftpwire.MaxBlob]int{4, 2, 1, 1, 1}

// Expect says that the TAG.json at a path is read first, and with blobs also that the
// table of contents and the chunk indexes of its image for a platform, OS/ARCH[/VARIANT],
// will be: where this program is the far side, they are asked for while the connection is
// made. It must precede all reading.
func (d *Dir) Expect(tag, platform string, blobs bool) {
	name := d.path(tag)
	d.conn.expected = []sftpwire.Part{{Path: name, Size: sftpwire.MaxPart}}
	if !blobs {
		return
	}
	for i, n := range expectParts {
		for k := range n {
			d.conn.expected = append(d.conn.expected, sftpwire.Part{
				Path: name, Offset: int64(k) * sftpwire.MaxPart, Size: sftpwire.MaxPart, Blob: i + 1, Platform: platform,
			})
		}
	}
}

// Close ends the connection. Nothing may be under way or follow.
func (d *Dir) Close() error {
	d.conn.close()
	return nil
}

// String returns the URL.
func (d *Dir) String() string { return d.name }

func (d *Dir) path(name string) string { return path.Join(d.base, name) }

// do is conn.do with errors that name the file, and the errors of package store.
func (d *Dir) do(ctx context.Context, name string, f func(*sftp.Client) error) error {
	return d.doLink(ctx, name, func(l *link) error { return f(l.client) })
}

// doLink is do for more than the library does.
func (d *Dir) doLink(ctx context.Context, name string, f func(*link) error) error {
	err := d.conn.do(ctx, f)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		return err
	case errors.Is(err, fs.ErrNotExist):
		err = store.ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w (the server says so)", fs.ErrPermission)
	}
	return fmt.Errorf("sftpstore: %s/%s: %w", d, name, err)
}

// Stat returns the entry of a file.
func (d *Dir) Stat(ctx context.Context, name string) (e store.Entry, err error) {
	err = d.do(ctx, name, func(c *sftp.Client) error {
		fi, err := c.Stat(d.path(name))
		if err == nil {
			e = entry(name, fi)
		}
		return err
	})
	return e, err
}

func entry(name string, fi os.FileInfo) store.Entry {
	return store.Entry{Path: name, Dir: fi.IsDir(), Size: fi.Size(), ModTime: fi.ModTime()}
}

// Put makes the file at name of size bytes of data, or replaces it, whole or not
// at all.
func (d *Dir) Put(ctx context.Context, name string, data io.ReaderAt, size int64) error {
	return d.write(ctx, name, data, size, func(c *sftp.Client, temp, final string) error {
		if err := c.PosixRename(temp, final); err != nil {
			return fmt.Errorf("rename (posix-rename@openssh.com): %w", err)
		}
		return nil
	})
}

// Create is Put where there is no file: else the error wraps [store.ErrExists].
func (d *Dir) Create(ctx context.Context, name string, data []byte) error {
	return d.write(ctx, name, bytes.NewReader(data), int64(len(data)), func(c *sftp.Client, temp, final string) error {
		var err error
		if _, ok := c.HasExtension("hardlink@openssh.com"); ok {
			if err = c.Link(temp, final); err == nil {
				return c.Remove(temp)
			}
		} else {
			// Which fails, by the protocol, where there is a file.
			err = c.Rename(temp, final)
		}
		if err != nil {
			if _, there := c.Lstat(final); there == nil {
				return store.ErrExists
			}
			err = fmt.Errorf("link (hardlink@openssh.com): %w", err)
		}
		return err
	})
}

// write writes a file under a temporary name and has publish give it its own. Where a
// connection broke it goes on with what had been written.
func (d *Dir) write(ctx context.Context, name string, data io.ReaderAt, size int64, publish func(c *sftp.Client, temp, final string) error) error {
	final := d.path(name)
	dir, base := path.Split(final)
	var temp string
	var done int64 // bytes that are in the file at temp
	return d.do(ctx, name, func(c *sftp.Client) error {
		var f *sftp.File
		err := fs.ErrNotExist
		if done > 0 {
			f, err = c.OpenFile(temp, os.O_WRONLY)
		}
		if errors.Is(err, fs.ErrNotExist) {
			temp, done = dir+"."+base[:min(len(base), 200)]+"."+rand.Text()[:16]+".tmp", 0
			f, err = create(c, temp)
		}
		if err != nil {
			return err
		}
		done, err = fill(c, f, data, done, size)
		if err = errors.Join(err, f.Close()); err == nil {
			err = publish(c, temp, final)
		}
		if err != nil {
			// What is reported is why it has no name. Without a connection it stays, for
			// the next one or for a collection.
			_ = c.Remove(temp)
		}
		return err
	})
}

// create makes a file, and the directories above it if they are not there.
func create(c *sftp.Client, name string) (*sftp.File, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := c.OpenFile(name, flags)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := c.MkdirAll(path.Dir(name)); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	return c.OpenFile(name, flags)
}

// piece is how much of a file is written before the server has confirmed all of it.
const piece = 512 << 10

// fill writes data to a file that has the first done bytes of it, syncs it if the server
// can, and returns how much is in it for certain.
func fill(c *sftp.Client, f *sftp.File, data io.ReaderAt, done, size int64) (int64, error) {
	if _, err := f.Seek(done, io.SeekStart); err != nil {
		return done, err
	}
	for done < size {
		want := min(piece, size-done)
		n, err := f.ReadFromWithConcurrency(io.NewSectionReader(data, done, want), perFile)
		if err == nil && n != want {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	if _, ok := c.HasExtension("fsync@openssh.com"); ok {
		return done, f.Sync()
	}
	return done, nil
}

// Remove removes a file; that there is none is no error.
func (d *Dir) Remove(ctx context.Context, name string) error {
	err := d.do(ctx, name, func(c *sftp.Client) error { return c.Remove(d.path(name)) })
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// lists is how many directories are listed at a time.
const lists = 32

// List returns what is in a directory: with deep the files below it at any
// depth, else its files and directories. Where there is none, there is nothing.
func (d *Dir) List(ctx context.Context, dir string, deep bool) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		for level := []string{dir}; len(level) > 0; {
			entries, err := d.readDirs(ctx, level)
			if err != nil {
				yield(store.Entry{}, err)
				return
			}
			level = nil
			for _, e := range entries {
				if e.Dir && deep {
					level = append(level, e.Path)
				} else if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// readDirs returns what is in directories, in no order.
func (d *Dir) readDirs(ctx context.Context, dirs []string) ([]store.Entry, error) {
	var mu sync.Mutex
	var all []store.Entry
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lists)
	for _, dir := range dirs {
		g.Go(func() error {
			entries, err := d.readDir(ctx, dir)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, entries...)
			return err
		})
	}
	return all, g.Wait()
}

func (d *Dir) readDir(ctx context.Context, dir string) (entries []store.Entry, err error) {
	err = d.do(ctx, dir, func(c *sftp.Client) error {
		infos, err := c.ReadDir(d.path(dir))
		entries = entries[:0]
		for _, fi := range infos {
			if fi.IsDir() || fi.Mode().IsRegular() {
				entries = append(entries, entry(path.Join(dir, fi.Name()), fi))
			}
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return entries, err
}

// isFailure reports whether the server says no more than that it failed.
func isFailure(err error) bool {
	e, ok := errors.AsType[*sftp.StatusError](err)
	return ok && e.FxCode() == sftp.ErrSSHFxFailure
}

// Tidy removes those of the given directories, and below them, that are empty,
// themselves included.
func (d *Dir) Tidy(ctx context.Context, dirs ...string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(lists)
	for _, dir := range dirs {
		g.Go(func() error {
			entries, err := d.readDir(gctx, dir)
			if err != nil {
				return err
			}
			var below []string
			for _, e := range entries {
				if e.Dir {
					below = append(below, e.Path)
				}
			}
			if err := d.Tidy(gctx, below...); err != nil {
				return err
			}
			if len(below) < len(entries) {
				return nil
			}
			// One that is not empty, after all, says so; the protocol has no code for it.
			err = d.do(gctx, dir, func(c *sftp.Client) error { return c.RemoveDirectory(d.path(dir)) })
			if errors.Is(err, store.ErrNotFound) || isFailure(err) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}
