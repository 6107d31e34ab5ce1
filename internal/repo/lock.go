package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName = ".lock"
	// lockTime is how long a lock is good for whom cannot see its owner.
	lockTime = 5 * time.Minute
	// lockPoll is how often a waiting push looks again.
	lockPoll = 50 * time.Millisecond
)

// errLockLost reports that another push took the lock for abandoned.
var errLockLost = errors.New("another push took the repository's lock")

// lockFile is what the lock file says: docs/format/repository.md, section 7.
type lockFile struct {
	Owner   string    `json:"owner"`
	Boot    string    `json:"boot"`
	Expires time.Time `json:"expires"`
}

// lock is the repository's lock, held.
//
// The file .lock tells writers on other machines who writes and until when. On
// the same machine the kernel knows better: its owner holds a flock on it,
// which ends with the process however that ends.
type lock struct {
	dir  string
	file *os.File // the lock file; holds the flock
}

// takeLock waits for the lock of the repository in dir.
func takeLock(ctx context.Context, dir string, now func() time.Time) (*lock, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = nil // nobody is then taken to be on this machine
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("repo: lock %s: %w", dir, err)
	}
	owner := fmt.Sprintf("%s:%d", host, os.Getpid())
	for {
		me := lockFile{Owner: owner, Boot: string(bytes.TrimSpace(boot)), Expires: now().Add(lockTime).UTC()}
		l, err := tryLock(dir, me, now())
		if err != nil {
			return nil, fmt.Errorf("repo: lock %s: %w", dir, err)
		}
		if l != nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("repo: lock %s: %w", dir, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// tryLock takes the lock if it is free or abandoned, and returns nil if not.
func tryLock(dir string, me lockFile, now time.Time) (*lock, error) {
	path := filepath.Join(dir, lockName)
	temp := path + "." + rand.Text()[:16] + ".tmp"
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	l := &lock{dir: dir, file: f}
	err = errors.Join(l.claim(temp, me, now), os.Remove(temp))
	if err != nil {
		return nil, errors.Join(err, l.release())
	}
	if !l.held() {
		return nil, f.Close()
	}
	return l, nil
}

// claim tries to make the lock file out of the file at temp, which is l's.
func (l *lock) claim(temp string, me lockFile, now time.Time) error {
	text, err := json.Marshal(me)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(text); err != nil {
		return err
	}
	if err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	path := filepath.Join(l.dir, lockName)
	// One at a time looks whether the lock is abandoned and replaces it.
	return exclusively(l.dir, func() error {
		if err := removeAbandoned(path, me.Boot, now); err != nil {
			return err
		}
		// link makes the lock appear with its text, or fails.
		if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// removeAbandoned removes the lock file if its owner is gone.
func removeAbandoned(path, boot string, now time.Time) (err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var l lockFile
	if err := json.NewDecoder(f).Decode(&l); err != nil {
		// A power cut can leave it without its text.
		st, err := f.Stat()
		if err != nil {
			return err
		}
		l.Expires = st.ModTime().Add(lockTime)
	}
	if boot != "" && l.Boot == boot {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		if err != nil {
			return err
		}
	} else if now.Before(l.Expires) {
		return nil
	}
	return os.Remove(path)
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

// held reports whether the lock is ours still.
func (l *lock) held() bool {
	mine, err := l.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(filepath.Join(l.dir, lockName))
	return err == nil && os.SameFile(mine, there)
}

// release gives the lock up.
func (l *lock) release() error {
	err := exclusively(l.dir, func() error {
		if !l.held() {
			return nil
		}
		return os.Remove(filepath.Join(l.dir, lockName))
	})
	return errors.Join(err, l.file.Close())
}
