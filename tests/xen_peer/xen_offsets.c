/* Prints, as JSON, where Xen's own headers put things. */
#include "peer.h"

#define AT(type, field) printf("\"" #type "." #field "\": %zu, ", offsetof(struct type, field))
#define SIZE(type) printf("\"" #type "\": %zu, ", sizeof(struct type))

int main(void)
{
    putchar('{');
    AT(blkif_sring, req_prod);
    AT(blkif_sring, req_event);
    AT(blkif_sring, rsp_prod);
    AT(blkif_sring, rsp_event);
    AT(blkif_sring, ring);
    AT(blkif_request, operation);
    AT(blkif_request, nr_segments);
    AT(blkif_request, handle);
    AT(blkif_request, id);
    AT(blkif_request, sector_number);
    AT(blkif_request, seg);
    SIZE(blkif_request);
    AT(blkif_request_segment, gref);
    AT(blkif_request_segment, first_sect);
    AT(blkif_request_segment, last_sect);
    SIZE(blkif_request_segment);
    AT(blkif_request_indirect, indirect_op);
    AT(blkif_request_indirect, nr_segments);
    AT(blkif_request_indirect, id);
    AT(blkif_request_indirect, sector_number);
    AT(blkif_request_indirect, handle);
    AT(blkif_request_indirect, indirect_grefs);
    AT(blkif_request_discard, flag);
    AT(blkif_request_discard, handle);
    AT(blkif_request_discard, id);
    AT(blkif_request_discard, sector_number);
    AT(blkif_request_discard, nr_sectors);
    AT(blkif_response, id);
    AT(blkif_response, operation);
    AT(blkif_response, status);
    SIZE(blkif_response);
    printf("\"entry\": %zu, ", sizeof(union blkif_sring_entry));
    printf("\"slots in a page\": %u, ", (unsigned)__CONST_RING_SIZE(blkif, PAGE));
    printf("\"slots in 16 pages\": %u}\n", (unsigned)__CONST_RING_SIZE(blkif, 16 * PAGE));
    return 0;
}
