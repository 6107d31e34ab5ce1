package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// Reach is which paths a client on the other end of a pipe may name.
type Reach struct{ root *os.Root }

// Anywhere lets a client name every path that this process can open: it has
// been let in as somebody who could open them anyway.
func Anywhere() *Reach { return &Reach{} }

// Confine lets a client name paths in dir alone, which is what both "/" and "."
// mean to it; no symbolic link leads out of it.
func Confine(dir string) (*Reach, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return &Reach{root: root}, nil
}

// Close ends the use of r.
func (r *Reach) Close() error {
	if r.root == nil {
		return nil
	}
	return r.root.Close()
}

// inside returns the path below the root that a client means.
func inside(name string) string {
	if rel := filepath.Clean("/" + name)[1:]; rel != "" {
		return rel
	}
	return "."
}

// open opens a file to read.
func (r *Reach) open(name string) (f *os.File, err error) {
	const flags = os.O_RDONLY | syscall.O_NONBLOCK // not to hang on a FIFO
	if r.root == nil {
		f, err = os.OpenFile(name, flags, 0)
	} else {
		f, err = r.root.OpenFile(inside(name), flags, 0)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// within calls use with a path to the directory dir that is as good outside the
// root as in it. With create the directory is made where it is not.
func (r *Reach) within(dir string, create bool, use func(path string) error) error {
	if r.root == nil {
		return use(dir)
	}
	if create {
		if err := r.root.Mkdir(inside(dir), 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	d, err := r.root.OpenFile(inside(dir), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	// The path of the open directory: whatever moves meanwhile, it is this one.
	return errors.Join(use(fmt.Sprintf("/proc/self/fd/%d", d.Fd())), d.Close())
}

// openStore opens the store in dir.
func (r *Reach) openStore(dir string, create bool) (s *local.Store, err error) {
	err = r.within(dir, create, func(path string) error {
		s, err = local.Open(path, local.Options{Create: create})
		return err
	})
	return s, err
}

// write has fill write the file that name means, which then appears.
func (r *Reach) write(name string, fill func(io.Writer) error) error {
	return r.within(filepath.Dir(name), false, func(dir string) error {
		return writeOutput(filepath.Join(dir, filepath.Base(name)), nil, fill)
	})
}

// session are the arguments of casync's verbs pull and push, as its ssh client
// gives them: BASE ARCHIVE INDEX WSTORE [RSTORE…], each "-" if there is none.
type session struct {
	archive, index string
	stores         []string
}

func parseSession(args []string) (session, error) {
	if len(args) < 4 || args[0] != "-" {
		return session{}, fmt.Errorf("archive: %w: the arguments are - ARCHIVE INDEX STORE [STORE...], each - if there is none", ErrUsage)
	}
	var s session
	for i, arg := range args[1:] {
		switch {
		case arg == "":
			return s, fmt.Errorf("archive: %w: an empty argument", ErrUsage)
		case arg == "-":
		case i == 0:
			s.archive = arg
		case i == 1:
			s.index = arg
		default:
			s.stores = append(s.stores, arg)
		}
	}
	if s.archive == "" && s.index == "" && s.stores == nil {
		return s, fmt.Errorf("archive: %w: neither archive nor index nor store", ErrUsage)
	}
	return s, nil
}

// ServePull is the far side of casync's ssh client that pulls: it offers what
// the arguments name and gives what is asked for, until the client ends the
// conversation c, which is closed.
func ServePull(ctx context.Context, c *casyncproto.Conn, args []string, reach *Reach) error {
	return refusing(c, func() (err error) {
		s, err := parseSession(args)
		if err != nil {
			return err
		}
		var src casyncproto.Source
		for name, to := range map[string]*io.Reader{s.archive: &src.Archive, s.index: &src.Index} {
			if name == "" {
				continue
			}
			f, err := reach.open(name)
			if err != nil {
				return fmt.Errorf("archive: %w", err)
			}
			defer f.Close()
			*to = f
		}
		var all []store.Store
		for _, dir := range s.stores {
			l, err := reach.openStore(dir, false)
			if err != nil {
				return fmt.Errorf("archive: %s: %w", dir, err)
			}
			defer l.Close()
			all = append(all, l)
		}
		if len(all) > 0 {
			src.Store = store.Chain(all...)
		}
		return casyncproto.ServePull(ctx, c, src)
	})
}

// ServePush is the far side of casync's ssh client that pushes: an archive, or
// an index and its chunks. What is pushed appears when all of it has arrived and
// every chunk has been verified.
func ServePush(ctx context.Context, c *casyncproto.Conn, args []string, reach *Reach) error {
	return refusing(c, func() error {
		s, err := parseSession(args)
		switch {
		case err != nil:
			return err
		case s.archive != "":
			return casyncproto.ServePush(ctx, c, casyncproto.Target{Archive: func(r io.Reader) error {
				return reach.write(s.archive, func(w io.Writer) error {
					_, err := io.Copy(w, r)
					return err
				})
			}})
		case s.index == "" || len(s.stores) != 1:
			return fmt.Errorf("archive: %w: an index is pushed with one store", ErrUsage)
		}
		l, err := reach.openStore(s.stores[0], true)
		if err != nil {
			return fmt.Errorf("archive: %s: %w", s.stores[0], err)
		}
		defer l.Close()
		return casyncproto.ServePush(ctx, c, casyncproto.Target{Store: l, Index: func(x *caibx.Index) error {
			if err := l.Flush(); err != nil { // the chunks are on the disk before the index
				return err
			}
			return reach.write(s.index, func(w io.Writer) error {
				_, err := x.WriteTo(w)
				return err
			})
		}})
	})
}

// refusing runs a conversation. What fails before it has begun, or after all has
// been said, the other side is told as well.
func refusing(c *casyncproto.Conn, talk func() error) error {
	err := talk()
	c.GiveUp(err)
	return errors.Join(err, c.Close())
}
