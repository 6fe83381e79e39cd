package sandbox

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// deleteLink deletes an interface; one that is gone already is no error.
func deleteLink(handle *netlink.Handle, name string) error {
	link, err := findLink(handle, name)
	if err == nil && link != nil {
		err = handle.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// findLink returns nil for an interface that does not exist.
func findLink(handle *netlink.Handle, name string) (netlink.Link, error) {
	link, err := handle.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	return link, err
}

// unlinker deletes interfaces of one namespace, together those that were asked for
// while it was busy: the kernel takes some 40 ms until nobody can be using an
// interface any more, for one as for a hundred.
type unlinker struct {
	netns  *Netns
	handle *netlink.Handle

	busy sync.Mutex // held while a batch is deleted

	mu   sync.Mutex
	next *unlinkBatch // what the next turn will delete
}

type unlinkBatch struct {
	names []string
	done  chan struct{}
	err   error // after done
}

// delete deletes an interface; one that is gone already is no error.
func (u *unlinker) delete(name string) error {
	u.mu.Lock()
	batch, first := u.next, u.next == nil
	if first {
		batch = &unlinkBatch{done: make(chan struct{})}
		u.next = batch
	}
	batch.names = append(batch.names, name)
	u.mu.Unlock()
	if !first {
		<-batch.done
		return batch.err
	}
	u.busy.Lock()
	defer u.busy.Unlock()
	u.mu.Lock()
	u.next = nil
	u.mu.Unlock()
	batch.err = u.deleteAll(batch.names)
	close(batch.done)
	return batch.err
}

// doomed is the group of interfaces that are about to be deleted. Everything else is
// in group 0.
const doomed = 0x646f6f6d

func (u *unlinker) deleteAll(names []string) error {
	if len(names) == 1 {
		return deleteLink(u.handle, names[0])
	}
	found := 0
	for _, name := range names {
		link, err := findLink(u.handle, name)
		if err == nil && link != nil {
			found++
			err = u.handle.LinkSetGroup(link, doomed)
		}
		if err != nil {
			return fmt.Errorf("delete interface %s: %w", name, err)
		}
	}
	if found == 0 {
		return nil
	}
	if err := u.netns.Do(deleteDoomed); err != nil {
		return fmt.Errorf("delete %d interfaces: %w", found, err)
	}
	return nil
}

// deleteDoomed deletes all of the group in the thread's namespace.
func deleteDoomed() error {
	request := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomed)))
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
