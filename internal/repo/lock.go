package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ociv2-sync/ociv2-sync/store"
)

const (
	// lockName is held while a tag changes, where a Space is no Swapper.
	lockName = ".lock"
	// collectName is held while what nothing needs is removed.
	collectName = ".gc"
	// leasePrefix begins the name of the file that a push holds from before its
	// first look at what is there to its end.
	leasePrefix = ".push-"
	// burySuffix follows the name of a lock that has expired, in that of the lock of
	// who removes it.
	burySuffix = "-expired-"

	// lockTime is how long a lock is good for whom cannot see its owner.
	lockTime = 5 * time.Minute
	// maxLock is the size of the largest lock file.
	maxLock = 4 << 10
)

// errLockLost reports that another writer took a lock for abandoned.
var errLockLost = errors.New("another writer took this one for dead and took its lock")

// lockFile is what a lock file says: docs/format/repository.md, section 7.
type lockFile struct {
	Owner string `json:"owner"`
	// ID is different for every lock that was ever taken.
	ID      string    `json:"id"`
	Boot    string    `json:"boot"`
	Expires time.Time `json:"expires"`
}

func newLockFile() lockFile {
	host, err := os.Hostname()
	if err != nil {
		host = "?" // it is for people
	}
	return lockFile{Owner: fmt.Sprintf("%s:%d", host, os.Getpid()), ID: rand.Text()}
}

// text gives the lock file with a new time. It has the same length each time.
func (l *lockFile) text(now time.Time) ([]byte, error) {
	l.Expires = now.Add(lockTime).UTC().Truncate(time.Second)
	return json.Marshal(l)
}

// parseLock reads a lock file that was last changed at the given time: without
// readable text, as a power cut can leave it, it expires by that.
func parseLock(b []byte, changed time.Time) lockFile {
	var l lockFile
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&l); err != nil {
		return lockFile{Owner: "?", Expires: changed.Add(lockTime)}
	}
	return l
}

// claim is a lock file that is ours.
type claim interface {
	// held reports whether it is ours still.
	held(ctx context.Context) (bool, error)
	// renew makes it good for another lockTime.
	renew(ctx context.Context, now time.Time) error
	// release gives it up.
	release(ctx context.Context) error
}

// claimer is a Space, the directory, that can ask the kernel whether the owner
// of a lock lives.
type claimer interface {
	// claim takes the lock at path if it is free or abandoned, and returns nil if not.
	claim(ctx context.Context, path string, now time.Time) (claim, error)
	// alive reports whether somebody holds the lock at path, and who.
	alive(ctx context.Context, path string, now time.Time) (string, bool, error)
}

// tryClaim takes the lock at path if it is free or abandoned, and returns nil if
// not, and who has it.
func tryClaim(ctx context.Context, s Space, path string, now time.Time) (claim, string, error) {
	if c, ok := s.(claimer); ok {
		got, err := c.claim(ctx, path, now)
		if got == nil || err != nil {
			return nil, "", err
		}
		return got, "", nil
	}
	there, owner, alive, err := look(ctx, s, path, now)
	if alive || err != nil {
		return nil, owner, err
	}
	if owner != "" { // dead
		removed, err := bury(ctx, s, path, there, now)
		if err != nil || !removed {
			return nil, owner, err
		}
	}
	c := &fileClaim{space: s, path: path, me: newLockFile()}
	text, err := c.me.text(now)
	if err != nil {
		return nil, "", err
	}
	err = s.Create(ctx, path, text)
	if errors.Is(err, store.ErrExists) {
		// Ours, if the answer to the first request was lost and it was repeated.
		if held, err := c.held(ctx); err != nil || !held {
			return nil, "?", err
		}
		err = nil
	}
	if err != nil {
		return nil, "", err
	}
	return c, "", nil
}

// bury removes the lock at path, which has expired, and reports whether it has. Of
// several who find it so only one may: the next one would remove the lock that the
// first one takes then. That one holds a lock of its own, named after the one that
// has expired.
func bury(ctx context.Context, s Space, path string, dead lockFile, now time.Time) (removed bool, err error) {
	spade, _, err := tryClaim(ctx, s, path+burySuffix+strings.ToLower(dead.ID), now)
	if spade == nil || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, spade.release(ctx)) }()
	there, owner, alive, err := look(ctx, s, path, now)
	if err != nil || owner == "" || alive || there.ID != dead.ID {
		return false, err // somebody has been faster
	}
	return true, s.Remove(ctx, path)
}

// aliveAt reports whether the lock at path is held, and by whom; "" says that
// there is no such file.
func aliveAt(ctx context.Context, s Space, path string, now time.Time) (string, bool, error) {
	if c, ok := s.(claimer); ok {
		return c.alive(ctx, path, now)
	}
	_, owner, alive, err := look(ctx, s, path, now)
	return owner, alive, err
}

// look is aliveAt for a Space that is no claimer; it returns what the lock says, too.
func look(ctx context.Context, s Space, path string, now time.Time) (l lockFile, owner string, alive bool, err error) {
	b, err := s.ReadFile(ctx, path, maxLock)
	if errors.Is(err, store.ErrNotFound) {
		return l, "", false, nil
	}
	if err != nil && !errors.Is(err, store.ErrTooLarge) {
		return l, "", false, err
	}
	changed := now
	for e, err := range s.List(ctx, ".", false) {
		if err != nil {
			return l, "", false, err
		}
		if e.Path == path {
			changed = e.ModTime
		}
	}
	l = parseLock(b, changed)
	return l, l.Owner, now.Before(l.Expires), nil
}

// fileClaim is a lock where nothing but its text tells whose it is.
type fileClaim struct {
	space Space
	path  string
	me    lockFile
}

func (c *fileClaim) held(ctx context.Context) (bool, error) {
	b, err := c.space.ReadFile(ctx, c.path, maxLock)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && parseLock(b, time.Time{}).ID == c.me.ID, err
}

func (c *fileClaim) renew(ctx context.Context, now time.Time) error {
	held, err := c.held(ctx)
	if err != nil {
		return err
	}
	if !held {
		return errLockLost
	}
	text, err := c.me.text(now)
	if err != nil {
		return err
	}
	return c.space.Put(ctx, c.path, bytes.NewReader(text), int64(len(text)))
}

func (c *fileClaim) release(ctx context.Context) error {
	held, err := c.held(ctx)
	if err != nil || !held {
		return err
	}
	return c.space.Remove(ctx, c.path)
}

// errHeld says that a lock is somebody else's.
type errHeld struct{ owner string }

func (e errHeld) Error() string { return "held by " + e.owner }

// holding takes the lock at path, calls f, and gives it up. It renews the lock
// meanwhile, and cancels f when it is lost. With wait it waits until it gets the
// lock, else the error is an errHeld.
func holding(ctx context.Context, s Space, path string, now func() time.Time, wait bool, f func(context.Context, claim) error) (err error) {
	var c claim
	for c == nil {
		var owner string
		if c, owner, err = tryClaim(ctx, s, path, now()); err != nil {
			return fmt.Errorf("repo: lock: %w", err)
		}
		if c == nil {
			if !wait {
				return errHeld{owner}
			}
			if err := pause(ctx, s); err != nil {
				return fmt.Errorf("repo: lock: %w", err)
			}
		}
	}
	defer func() {
		// Whoever comes next need not wait, even after an interrupt.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
		defer cancel()
		err = errors.Join(err, c.release(rctx))
	}()
	fctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		keep(fctx, c, now, cancel)
	}()
	err = f(fctx, c)
	if cause := context.Cause(fctx); err != nil && errors.Is(cause, errLockLost) {
		err = fmt.Errorf("repo: %s: %w", s, errLockLost)
	}
	cancel(nil)
	<-done
	return err
}

// releaseTime is how long to try to remove a lock when its user is done.
const releaseTime = 10 * time.Second

// keep renews a lock until ctx ends.
func keep(ctx context.Context, c claim, now func() time.Time, lost context.CancelCauseFunc) {
	tick := time.NewTicker(lockTime / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// Another failure gets another chance before the lock expires.
			if err := c.renew(ctx, now()); errors.Is(err, errLockLost) {
				lost(err)
				return
			}
		}
	}
}

// pause waits before another look at somebody's lock.
func pause(ctx context.Context, s Space) error {
	wait := 250 * time.Millisecond
	if _, ok := s.(claimer); ok { // a look costs nothing
		wait = 50 * time.Millisecond
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Reserve calls f while no collection of the repository begins: what f finds
// there is there until it ends. It waits for one that is under way. Whoever
// publishes does so in here.
func Reserve(ctx context.Context, s Space, now func() time.Time, f func(context.Context) error) error {
	for {
		// Lease first, then the look; a collection looks in the other order.
		collecting := false
		err := holding(ctx, s, leasePrefix+strings.ToLower(rand.Text()), now, true, func(ctx context.Context, _ claim) error {
			var err error
			if _, collecting, err = aliveAt(ctx, s, collectName, now()); err != nil || collecting {
				return err
			}
			if _, err := leases(ctx, s, now()); err != nil { // nothing of the dead stays
				return err
			}
			return f(ctx)
		})
		if err != nil || !collecting {
			return err
		}
		if err := pause(ctx, s); err != nil {
			return fmt.Errorf("repo: %s: wait for a collection: %w", s, err)
		}
	}
}

// leases returns who is pushing now, and removes what the dead have left.
func leases(ctx context.Context, s Space, now time.Time) (owners []string, err error) {
	for e, err := range s.List(ctx, ".", false) {
		if err != nil {
			return nil, err
		}
		lease := strings.HasPrefix(e.Path, leasePrefix)
		if !lease && !strings.HasPrefix(e.Path, lockName+burySuffix) && !strings.HasPrefix(e.Path, collectName+burySuffix) {
			continue
		}
		owner, alive, err := aliveAt(ctx, s, e.Path, now)
		switch {
		case err != nil:
			return nil, err
		case alive && !lease:
		case alive:
			owners = append(owners, owner)
		case owner != "":
			if err := s.Remove(ctx, e.Path); err != nil {
				return nil, err
			}
		}
	}
	return owners, nil
}
