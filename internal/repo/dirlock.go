package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// dirClaim is a lock in a directory.
//
// Its file tells writers on other machines who writes and until when. On the
// same machine the kernel knows better: its owner holds a flock on it, which
// ends with the process however that ends.
type dirClaim struct {
	path string
	file *os.File // the lock file; holds the flock
	me   lockFile
}

// bootID tells this run of this machine's kernel from all others; "" where that
// is not known: nobody is then taken to be on this machine.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// claim implements claimer.
func (d *Dir) claim(ctx context.Context, name string, now time.Time) (claim, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path := d.path(name)
	temp := path + "." + rand.Text()[:16] + ".tmp"
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	l := &dirClaim{path: path, file: f, me: newLockFile()}
	l.me.Boot = bootID()
	err = errors.Join(l.link(temp, now), os.Remove(temp))
	if err != nil {
		return nil, errors.Join(err, l.release(ctx))
	}
	if held, _ := l.held(ctx); !held {
		return nil, f.Close()
	}
	return l, nil
}

// link tries to make the lock file out of the file at temp, which is l's.
func (l *dirClaim) link(temp string, now time.Time) error {
	text, err := l.me.text(now)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(text); err != nil {
		return err
	}
	if err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	// One at a time looks whether the lock is abandoned and replaces it.
	return exclusively(filepath.Dir(l.path), func() error {
		owner, alive, err := lookAt(l.path, l.me.Boot, now)
		if err != nil {
			return err
		}
		if owner != "" && !alive {
			if err := os.Remove(l.path); err != nil {
				return err
			}
		}
		// link makes the lock appear with its text, or fails.
		if err := os.Link(temp, l.path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// alive implements claimer.
func (d *Dir) alive(ctx context.Context, name string, now time.Time) (string, bool, error) {
	if err := ctx.Err(); err != nil {
		return "", false, err
	}
	return lookAt(d.path(name), bootID(), now)
}

// lookAt tells whose the lock file at path is, "" where there is none, and
// whether its owner is to be taken for alive.
func lookAt(path, boot string, now time.Time) (owner string, alive bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return "", false, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxLock))
	if err != nil {
		return "", false, err
	}
	l := parseLock(text, st.ModTime())
	if boot == "" || l.Boot != boot {
		return l.Owner, now.Before(l.Expires), nil
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return l.Owner, true, nil
	}
	return l.Owner, false, err
}

// exclusively calls f while no other process of this machine does so for dir.
func exclusively(dir string, f func() error) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	return f()
}

// held implements claim.
func (l *dirClaim) held(context.Context) (bool, error) {
	mine, err := l.file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// renew implements claim.
func (l *dirClaim) renew(ctx context.Context, now time.Time) error {
	if held, err := l.held(ctx); err != nil || !held {
		return errors.Join(err, errLockLost)
	}
	text, err := l.me.text(now)
	if err != nil {
		return err
	}
	_, err = l.file.WriteAt(text, 0)
	return err
}

// release implements claim.
func (l *dirClaim) release(ctx context.Context) error {
	err := exclusively(filepath.Dir(l.path), func() error {
		if held, err := l.held(ctx); err != nil || !held {
			return err
		}
		return os.Remove(l.path)
	})
	return errors.Join(err, l.file.Close())
}
