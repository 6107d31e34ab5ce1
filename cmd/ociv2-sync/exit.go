package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/delta"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/bundle"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/offline"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/s3store"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// The exit codes. They are stable; exitHelp tells them to people.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitCorrupt  = 4
	exitBudget   = 5
	exitNetwork  = 6
	exitSpace    = 7
	exitSignal   = 128 // plus the number of the signal
)

const exitHelp = `Exit codes: 0 done, 1 failed (diff: also when the images differ), 2 wrong usage,
3 not found (image, tag, chunk), 4 verification failed (corrupt, malformed or forged
data), 5 over the budget of --max-bytes, 6 network failure after all retries, 7 not
enough space, 130 interrupted (SIGINT), 143 terminated (SIGTERM).`

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// advisedError is an error of which the command knows what to do about it.
type advisedError struct {
	error
	advice string
}

func (e advisedError) Unwrap() error { return e.error }

// notFoundError is about something in an image that is not there.
type notFoundError struct{ error }

// Is makes it one of those that exit with exitNotFound.
func (notFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// signalError is what cancels the context when a signal arrives.
type signalError struct{ sig syscall.Signal }

func (e signalError) Error() string {
	if e.sig == syscall.SIGINT {
		return "interrupted"
	}
	return "terminated"
}

// Is makes a signal a cancellation for those who ask.
func (e signalError) Is(target error) bool { return target == context.Canceled }

// advice says what to do about an error where that is not plain from the error
// itself, "" elsewhere.
func advice(err error) string {
	if _, ok := errors.AsType[*translate.LayerError](err); ok && errors.Is(err, translate.ErrLimit) {
		return "if you trust the image, raise the limit that a --limit option sets"
	}
	if e, ok := errors.AsType[advisedError](err); ok {
		return e.advice
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "check the name of the host, and the network"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return "if it is meant to be plain HTTP, say http:// or, of a registry, --plain-http"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "renew the server's certificate, or set this machine's clock"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "--ca-file names an authority to trust, if it is not among the system's"
	}
	if e, ok := errors.AsType[*httpstore.StatusError](err); ok && (e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden) {
		return "log in with --header, --netrc or --cert"
	}
	if e, ok := errors.AsType[*s3store.RefusedError](err); ok {
		return s3Advice(e)
	}
	for _, a := range []struct {
		target error
		text   string
	}{
		{durable.ErrOccupied, "choose another one, or --replace this"},
		{repo.ErrNoImage, "ociv2-sync images REPO lists what is there"},
		{offline.ErrLacks, "the bundle was made for devices that have more; pull from the repository"},
		{repo.ErrIncomplete, "if the image was replaced, and gc ran, while it was pulled, pull again; else it must be pushed again"},
		{repo.ErrNoRepository, "a repository is a directory that push made, or its URL, such as https://HOST/PATH"},
		{archive.ErrNoStore, "--store names the one with its chunks, which is REPO/default.castr in a repository"},
		{tree.ErrMounted, "unmount it, or choose another directory"},
		{repo.ErrOutside, "--allow-store accepts it, if you trust it"},
		{transfer.ErrBudget, "raise --max-bytes, or add a --seed that has more of the image"},
		{transfer.ErrSpace, "free some space, or pull to another filesystem"},
		{s3store.ErrConditions, "--single-writer accepts it, if nobody else writes to this repository meanwhile"},
		{syscall.ENOSPC, "free some space, or choose another filesystem"},
		{syscall.EDQUOT, "free some space, or choose another filesystem"},
		{store.ErrNetwork, "try again; a pull goes on with what it has fetched"},
		{transfer.ErrNotAttached, "pull fetches the layers; or push --attach it"},
		{registry.ErrDenied, "log in to it with podman or docker, or name a file that they wrote with --authfile"},
		{root.ErrNotRoot, "--root names a directory for images that is empty or made by this program"},
	} {
		if errors.Is(err, a.target) {
			return a.text
		}
	}
	return ""
}

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	if sig, ok := errors.AsType[signalError](err); ok {
		return exitSignal + int(sig.sig)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	for _, c := range []struct {
		code    int
		targets []error
	}{
		{exitUsage, []error{
			archive.ErrUsage, transfer.ErrUsage, durable.ErrOccupied, tree.ErrMounted, repo.ErrRef,
			registry.ErrReference, root.ErrNotRoot, root.ErrName, sshstore.ErrLocation, seed.ErrUnknown, stores.ErrReadOnly, stores.ErrScheme, s3store.ErrURL,
		}},
		{exitBudget, []error{transfer.ErrBudget}},
		{exitSpace, []error{transfer.ErrSpace, syscall.ENOSPC, syscall.EDQUOT}},
		{exitNetwork, []error{store.ErrNetwork, registry.ErrNetwork}},
		{exitCorrupt, []error{
			archive.ErrDamaged, offline.ErrMalformed, casyncproto.ErrProtocol, store.ErrCorrupt, store.ErrTooLarge, root.ErrCorrupt, delta.ErrMalformed, delta.ErrContent, assemble.ErrDelta, caibx.ErrMalformed, catar.ErrMalformed, catar.ErrUnsupported,
			toc.ErrInvalid, toc.ErrContent, seed.ErrSpace, repo.ErrMalformed, repo.ErrMismatch, repo.ErrOutside, assemble.ErrContent, bundle.ErrConfig,
			translate.ErrMalformed, translate.ErrMismatch, translate.ErrLimit, translate.ErrUnsupported,
		}},
		{exitNotFound, []error{transfer.ErrNoFile, transfer.ErrNoDelta, transfer.ErrNotAttached, transfer.ErrOffline, store.ErrNotFound, root.ErrNotFound, root.ErrNoPredecessor, registry.ErrNotFound, fs.ErrNotExist}},
	} {
		for _, t := range c.targets {
			if errors.Is(err, t) {
				return c.code
			}
		}
	}
	return exitFailed
}
