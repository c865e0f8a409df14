// Package fabric is the network between the hosts of one cluster: a bridge in a network namespace that has no other link.
//
//	control-plane 172.30.0.10 ─┐
//	node-1        172.30.0.11 ─┼─ bridge
//	node-2        172.30.0.12 ─┘
//
// No namespace has a name and no link lies in the machine's own: the kernel removes all of it with the processes that hold it.
package fabric

import (
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// Link is the name of a host's link to the others.
	Link = "eth0"
	// Prefix is the length of the subnet of hosts.
	Prefix = 24
)

// Host is one place on the fabric.
type Host struct {
	Name    string
	Address string
	// PodSubnet is routed to the host; empty where no pods run.
	PodSubnet string
}

// Fabric holds the namespace of the bridge open.
type Fabric struct {
	namespace netns.NsHandle
	links     *netlink.Handle
	bridge    netlink.Link
}

// New makes an empty fabric.
func New() (*Fabric, error) {
	namespace, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	links, err := netlink.NewHandleAt(namespace)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hosts"}}
	if err := links.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("add a bridge: %w", err)
	}
	if err := links.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("switch the bridge on: %w", err)
	}
	return &Fabric{namespace: namespace, links: links, bridge: bridge}, nil
}

// newNamespace makes it on a thread that is thrown away: it would stay in the new namespace otherwise.
func newNamespace() (netns.NsHandle, error) {
	type result struct {
		namespace netns.NsHandle
		err       error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread()
		namespace, err := netns.New()
		made <- result{namespace, err}
	}()
	answer := <-made
	return answer.namespace, answer.err
}

// Place is a host that is attached.
type Place struct {
	Host
	namespace netns.NsHandle
	links     *netlink.Handle
	link      netlink.Link
	port      netlink.Link
	fabric    *Fabric
}

// Attach links the network namespace of a process to the bridge, and routes to every other host's pods.
func (f *Fabric) Attach(host Host, pid int, all []Host) (*Place, error) {
	namespace, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace of %s: %w", host.Name, err)
	}
	links, err := netlink.NewHandleAt(namespace)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace of %s: %w", host.Name, err)
	}
	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: host.Name},
		PeerName:      Link,
		PeerNamespace: netlink.NsFd(int(namespace)),
	}
	// The kernel removes the links of a host some time after its last process: what an earlier one left gives way.
	if left, err := f.links.LinkByName(host.Name); err == nil {
		_ = f.links.LinkDel(left)
	}
	if err := f.links.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("link %s to the bridge: %w", host.Name, err)
	}
	place := &Place{Host: host, namespace: namespace, links: links, fabric: f}
	if place.port, err = f.links.LinkByName(host.Name); err != nil {
		return nil, err
	}
	if place.link, err = links.LinkByName(Link); err != nil {
		return nil, err
	}
	if err := errors.Join(f.links.LinkSetMaster(place.port, f.bridge), f.links.LinkSetUp(place.port)); err != nil {
		return nil, fmt.Errorf("attach %s to the bridge: %w", host.Name, err)
	}
	if err := place.configure(all); err != nil {
		return nil, fmt.Errorf("configure the network of %s: %w", host.Name, err)
	}
	return place, nil
}

func (p *Place) configure(all []Host) error {
	loopback, err := p.links.LinkByName("lo")
	if err != nil {
		return err
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(p.Address), Mask: net.CIDRMask(Prefix, 32)}}
	err = errors.Join(p.links.LinkSetUp(loopback), p.links.AddrAdd(p.link, address), p.links.LinkSetUp(p.link))
	if err != nil {
		return err
	}
	// The world outside does not exist, and says so at once.
	_, everything, _ := net.ParseCIDR("0.0.0.0/0")
	if err := p.links.RouteAdd(&netlink.Route{Dst: everything, Type: unix.RTN_UNREACHABLE}); err != nil {
		return fmt.Errorf("add the unreachable route: %w", err)
	}
	for _, other := range all {
		if other.PodSubnet == "" || other.Name == p.Name {
			continue
		}
		_, subnet, err := net.ParseCIDR(other.PodSubnet)
		if err != nil {
			return err
		}
		route := &netlink.Route{Dst: subnet, Gw: net.ParseIP(other.Address), LinkIndex: p.link.Attrs().Index}
		if err := p.links.RouteAdd(route); err != nil {
			return fmt.Errorf("route to the pods of %s: %w", other.Name, err)
		}
	}
	return nil
}

// Detach closes what Attach opened. The links go with the last process of the namespace.
func (p *Place) Detach() {
	p.links.Close()
	_ = p.namespace.Close()
}

// Dial connects from inside the host's network namespace. The address must be numeric: a name would be resolved outside.
func (p *Place) Dial(address string) (net.Conn, error) {
	type result struct {
		connection net.Conn
		err        error
	}
	dialled := make(chan result)
	go func() {
		// The thread is thrown away with the goroutine: it belongs to the other namespace.
		runtime.LockOSThread()
		if err := netns.Set(p.namespace); err != nil {
			dialled <- result{nil, fmt.Errorf("enter the network namespace of %s: %w", p.Name, err)}
			return
		}
		connection, err := net.DialTimeout("tcp", address, dialTimeout)
		dialled <- result{connection, err}
	}()
	answer := <-dialled
	return answer.connection, answer.err
}
